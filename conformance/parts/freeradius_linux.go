package parts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// RADIUSConfig describes a NAS made of FreeRADIUS: a dynamic authorization server (RFC 5176) whose requests really move
// devices, and which reports what it sees in accounting.
type RADIUSConfig struct {
	Dir  string   // absolute; made if it is not there
	Host *NetHost // Optional: namespace to run in. Its bridge br0 is the switch whose ports are moved

	Listen     netip.AddrPort // Optional without Host: default a free port of 127.0.0.1
	Secret     string
	Client     string // Optional: who may send requests, address or prefix; default 127.0.0.1
	Accounting string // Optional: host:port that accounting is sent to
	AcctSecret string

	Restricted string   // the Filter-Id that shuts a port off; any other opens it
	Recovery   []string // with Host: IPv4:port (TCP) that stays open for restricted ports
}

// RADIUS is a running FreeRADIUS.
type RADIUS struct {
	cfg  RADIUSConfig
	proc *process
}

// StartRADIUS starts the NAS. A folder that was used before keeps its ports, as a switch does that restarts its RADIUS daemon.
func StartRADIUS(ctx context.Context, cfg RADIUSConfig) (*RADIUS, error) {
	if err := Require(ctx, os.Stderr, "freeradius", "freeradius-utils", "nftables"); err != nil {
		return nil, err
	}
	if cfg.Client == "" {
		cfg.Client = "127.0.0.1"
	}
	for range 3 {
		r := &RADIUS{cfg: cfg}
		if !cfg.Listen.IsValid() {
			port, err := freeUDPPort()
			if err != nil {
				return nil, err
			}
			r.cfg.Listen = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		}
		err := r.start(ctx)
		if err == nil {
			return r, nil
		}
		// The free port may be taken before the server binds it.
		if cfg.Listen.IsValid() || !strings.Contains(err.Error(), "Address already in use") {
			return nil, err
		}
	}
	return nil, errors.New("cannot start FreeRADIUS: no free port")
}

func freeUDPPort() (uint16, error) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("cannot find a free port: %w", err)
	}
	defer c.Close()
	return netip.MustParseAddrPort(c.LocalAddr().String()).Port(), nil
}

func (r *RADIUS) start(ctx context.Context) error {
	dir := r.cfg.Dir
	if err := os.MkdirAll(filepath.Join(dir, "ports"), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of FreeRADIUS: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of FreeRADIUS: %w", err)
	}
	for name, text := range map[string]string{"radiusd.conf": radiusConf, "port.sh": portScript} {
		var b strings.Builder
		if err := template.Must(template.New(name).Parse(text)).Execute(&b, r.cfg); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o755); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	if r.cfg.Host != nil {
		if err := r.cfg.Host.run(ctx, "sh", "-euc", "nft list table bridge nas >/dev/null 2>&1 || nft -f -<<'N'\n"+r.switchRules()+"N"); err != nil {
			return err
		}
	}
	freeradius, err := command("freeradius")
	if err != nil {
		return err
	}
	argv := []string{freeradius, "-d", dir, "-n", "radiusd", "-f", "-l", "stdout"}
	if r.cfg.Host != nil {
		nsenter, err := command("nsenter")
		if err != nil {
			return err
		}
		argv = append([]string{nsenter, "--net=" + r.cfg.Host.Namespace, "--"}, argv...)
	}
	log := filepath.Join(dir, "radius.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", log, err)
	}
	if r.proc, err = startProcess(processConfig{Argv: argv, Log: log, Stop: "TERM"}); err != nil {
		return err
	}
	err = r.proc.waitReady(ctx, "FreeRADIUS", func() error {
		b, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(b), "Ready to process requests") {
			err = errors.New("it does not say that it is ready")
		}
		return err
	})
	if err != nil {
		r.proc.stop()
	}
	return err
}

// switchRules are the ports of the switch: nothing but the recovery addresses for the restricted ones, in both directions.
func (r *RADIUS) switchRules() string {
	var from, to strings.Builder
	for _, a := range r.cfg.Recovery {
		at := netip.MustParseAddrPort(a)
		fmt.Fprintf(&from, "ether saddr @shut ip daddr %s tcp dport %d accept\n", at.Addr(), at.Port())
		fmt.Fprintf(&to, "ether daddr @shut ip saddr %s tcp sport %d accept\n", at.Addr(), at.Port())
	}
	chain := func(hook string) string {
		return "chain " + hook + "_ports { type filter hook " + hook + " priority 0; policy accept;\n" +
			"ether type arp accept\n" + from.String() + to.String() + "ether saddr @shut drop\nether daddr @shut drop\n}\n"
	}
	return "table bridge nas {\nset shut { type ether_addr; }\n" + chain("forward") + chain("input") + chain("output") + "}\n"
}

// Address is where it takes dynamic authorization requests.
func (r *RADIUS) Address() netip.AddrPort { return r.cfg.Listen }

// PID is the process of FreeRADIUS itself.
func (r *RADIUS) PID() int { return r.proc.pid }

// Log is what FreeRADIUS has logged.
func (r *RADIUS) Log() string {
	b, err := os.ReadFile(filepath.Join(r.cfg.Dir, "radius.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Connect plugs a device in under a filter and reports the start of its session.
func (r *RADIUS) Connect(ctx context.Context, mac, filter string) error {
	return r.script(ctx, "connect", mac, filter, "")
}

// Disconnect pulls the plug.
func (r *RADIUS) Disconnect(ctx context.Context, mac string) error {
	return r.script(ctx, "pull", mac, "", "")
}

// Report makes the NAS send an interim update of the session now, as it does from time to time.
func (r *RADIUS) Report(ctx context.Context, mac string) error {
	return r.script(ctx, "report", mac, "", "")
}

func (r *RADIUS) script(ctx context.Context, args ...string) error {
	if r.cfg.Host != nil {
		return r.cfg.Host.run(ctx, filepath.Join(r.cfg.Dir, "port.sh"), args...)
	}
	_, err := run(ctx, filepath.Join(r.cfg.Dir, "port.sh"), args...)
	return err
}

// Filter is the filter of the port as the switch has it, "" if nothing is plugged in.
func (r *RADIUS) Filter(mac string) string {
	b, err := os.ReadFile(filepath.Join(r.cfg.Dir, "ports", mac))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Lie makes the NAS acknowledge requests without doing anything, or be honest again.
func (r *RADIUS) Lie(lie bool) error {
	path := filepath.Join(r.cfg.Dir, "lies")
	if lie {
		return os.WriteFile(path, nil, 0o600)
	}
	return os.Remove(path)
}

// Kill ends it at once.
func (r *RADIUS) Kill() { r.proc.kill() }

// Stop ends it. Calling it again is harmless.
func (r *RADIUS) Stop() error {
	r.proc.stop()
	return nil
}

const radiusConf = `prefix = /usr
sysconfdir = {{.Dir}}
localstatedir = {{.Dir}}
raddbdir = {{.Dir}}
run_dir = {{.Dir}}/run
logdir = {{.Dir}}
libdir = /usr/lib/freeradius
name = parts
pidfile = ${run_dir}/radiusd.pid
max_requests = 1024
security {
	allow_core_dumps = no
	max_attributes = 200
	status_server = no
}
thread pool {
	start_servers = 1
	max_servers = 2
	min_spare_servers = 1
	max_spare_servers = 1
	max_requests_per_server = 0
}
client server {
	ipaddr = {{.Client}}
	secret = {{.Secret}}
}
modules {
	exec port {
		wait = yes
		program = "{{.Dir}}/port.sh %{Packet-Type} %{Calling-Station-Id} %{%{Filter-Id}:-none} %{%{Class}:-none}"
		input_pairs = request
		output_pairs = reply
		shell_escape = yes
		timeout = 5
	}
	always ok {
		rcode = ok
	}
	always reject {
		rcode = reject
	}
}
server coa {
	listen {
		type = coa
		ipaddr = {{.Listen.Addr}}
		port = {{.Listen.Port}}
	}
	recv-coa {
		if (!&Calling-Station-Id) {
			reject
		}
		port
		ok
	}
	send-coa {
		ok
	}
}
`

// portScript is the switch behind FreeRADIUS: it moves the port, looks what the network says then, and reports that.
const portScript = `#!/bin/sh
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
dir={{.Dir}}
what=$1
mac=$(printf %s "$2" | tr 'A-F-' 'a-f:')
filter=$3
class=$4
port=$dir/ports/$mac

move() {
	printf '%s\n' "$1" >"$port"
	{{if .Host}}case "$1" in
	{{.Restricted}}) nft add element bridge nas shut "{ $mac }" ;;
	*) nft delete element bridge nas shut "{ $mac }" 2>/dev/null || true ;;
	esac{{end}}
}

report() {
	shown=$(cat "$port" 2>/dev/null || true)
	{{if .Host}}if nft get element bridge nas shut "{ $mac }" >/dev/null 2>&1; then
		shown={{.Restricted}}
	elif [ "$shown" = "{{.Restricted}}" ]; then
		shown=open
	fi{{end}}
	{{if .Accounting}}[ -e "$port.class" ] && echoed="Class = $(cat "$port.class")" || echoed=
	printf 'Acct-Status-Type = %s\nAcct-Session-Id = "%s"\nCalling-Station-Id = "%s"\nNAS-Identifier = "parts"\nEvent-Timestamp = "%s"\nFilter-Id = "%s"\n%s\n' \
		"$1" "$mac" "$(printf %s "$mac" | tr 'a-f:' 'A-F-')" "$(date +%s)" "$shown" "$echoed" |
		radclient -t 1 -r 2 {{.Accounting}} acct {{.AcctSecret}} >>"$dir/accounting.log" 2>&1 </dev/stdin &{{end}}
	:
}

case "$what" in
connect)
	move "$filter"
	report Start
	;;
pull)
	report Stop
	rm -f "$port" "$port.class"
	{{if .Host}}nft delete element bridge nas shut "{ $mac }" 2>/dev/null || true{{end}}
	;;
report)
	report Interim-Update
	;;
CoA-Request)
	if [ ! -e "$port" ]; then
		echo 'Error-Cause = 503'
		exit 1
	fi
	[ ! -e "$dir/lies" ] || exit 0
	[ "$class" = none ] || printf '%s\n' "$class" >"$port.class"
	move "$filter"
	report Interim-Update
	;;
Disconnect-Request)
	if [ ! -e "$port" ]; then
		echo 'Error-Cause = 503'
		exit 1
	fi
	[ ! -e "$dir/lies" ] || exit 0
	# The device signs on again, and gets what the RADIUS server has for it.
	move "$(cat "$dir/ports/$mac.next" 2>/dev/null || echo open)"
	report Start
	;;
*)
	exit 1
	;;
esac
`
