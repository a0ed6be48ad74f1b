// Command cordonctl is the tool of operators and auditors: people, devices, releases, reports and their verification.
//
// It promises that data goes to stdout and talk to stderr, that every command has a --json form, and that verify,
// eventlog and appraise need no server. It refuses to talk to a server that its CA does not prove, to print a token on
// the screen, and to call a report verified without a trust bundle from elsewhere.
//
// Trusted: it holds a person's token, and auditors believe what it prints.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// execute runs one command line and returns its exit code: 0 done, 1 refused, 2 usage, 3 could not decide.
func execute(ctx context.Context, args []string) int {
	a := &app{}
	cmd := a.command()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "cordonctl: %s\n", plain(a.sentence(err)))
	if !a.started {
		fmt.Fprintf(os.Stderr, "hint: see %s --help\n", commandPath(cmd, args))
		return 2
	}
	code, hint := advise(err)
	if hint == "" && code == usage {
		hint = "see " + commandPath(cmd, args) + " --help"
	}
	if hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", plain(hint))
	}
	return code
}

// app is one run of the program.
type app struct {
	server  serverFlags
	json    bool
	started bool   // the command line was understood
	doing   string // what the command does, after "cannot"
}

func (a *app) command() *cobra.Command {
	cmd := group("cordonctl", "Run a fleet with cordon, and check its reports",
		a.provisionCommand(), a.personCommand(), a.deviceCommand(), a.inventoryCommand(), a.enrollTokenCommand(), a.endorsementCommand(),
		a.releaseCommand(), a.baselineCommand(), a.rolloutCommand(), a.segmentCommand(), a.whyCommand(),
		a.reportCommand(), a.verifyCommand(), a.logCommand(), a.witnessCommand(), a.eventlogCommand(), a.appraiseCommand())
	cmd.Version, cmd.SilenceUsage, cmd.SilenceErrors = version(), true, true
	cmd.CompletionOptions.DisableDefaultCmd = true
	a.server.add(cmd)
	cmd.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON document")
	return cmd
}

// group is a command that only holds others; alone it is a mistake, not a success.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
		}
		return nil
	}, RunE: func(c *cobra.Command, _ []string) error { return fmt.Errorf("%q needs a command", c.CommandPath()) }}
	cmd.AddCommand(sub...)
	return cmd
}

// run marks that flags and arguments were in order, so that later errors are not usage errors, and says what was tried.
func (a *app) run(doing string, f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		a.started, a.doing = true, doing
		return f(c.Context(), args)
	}
}

func (a *app) sentence(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if strings.HasPrefix(text, "cannot ") || !a.started {
		return text
	}
	return "cannot " + a.doing + ": " + text
}

func commandPath(root *cobra.Command, args []string) string {
	found, _, err := root.Find(args)
	if err != nil {
		return root.CommandPath()
	}
	return found.CommandPath()
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return info.Main.Version + " " + s.Value
		}
	}
	return info.Main.Version
}

func required(c *cobra.Command, names ...string) {
	for _, name := range names {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // a flag name in this package is misspelt
		}
	}
}
