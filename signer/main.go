// Command cordon-sign is the signer: holders sign the offline metadata with it, publishers sign and publish releases.
//
// It promises that what it shows is what it signs, and that a command that was cut off can be run again. It refuses to sign
// with a key that the metadata does not name and to talk to a server that its CA does not prove. It never imports the server.
//
// Trusted: it holds the keys that devices believe.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts/provenance"
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
	code, hint := advise(err)
	// What the verifier advises is the hint; the sentence need not say it again.
	fmt.Fprintf(os.Stderr, "cordon-sign: %s\n", plain(strings.Replace(a.sentence(err), provenance.NextMark+hint, "", 1)))
	if !a.started {
		fmt.Fprintf(os.Stderr, "hint: see %s --help\n", a.path(cmd, args))
		return 2
	}
	if hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", plain(hint))
	}
	return code
}

// app is one run of the program.
type app struct {
	started bool   // the command line was understood
	doing   string // what the command does, after "cannot"
}

func (a *app) command() *cobra.Command {
	cmd := group("cordon-sign", "Sign the offline metadata, and sign and publish releases",
		a.keysCommand(), a.rootCommand(), a.productCommand(), a.logCommand(), a.publishCommand(), a.baselineCommand(), a.bootChainCommand())
	cmd.Version, cmd.SilenceUsage, cmd.SilenceErrors = version(), true, true
	cmd.CompletionOptions.DisableDefaultCmd = true
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
func (a *app) run(doing string, f func(ctx context.Context) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		a.started, a.doing = true, doing
		return f(c.Context())
	}
}

func (a *app) sentence(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if strings.HasPrefix(text, "cannot ") || !a.started {
		return text
	}
	return "cannot " + a.doing + ": " + text
}

// plain keeps what a server says from writing to the terminal what it likes.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

func (a *app) path(root *cobra.Command, args []string) string {
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
