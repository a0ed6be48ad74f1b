package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/conformance/vectors"
)

func runCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "run --vectors DIR [-- COMMAND ARGS]", Short: "Ask a verifier about negative evidence: cordon's own, or one that reads questions on its standard input",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := vectors.Load(os.DirFS(dir))
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return vectors.Run(all, vectors.Ours, os.Stdout)
			}
			ask, stop, err := vectors.Start(cmd.Context(), os.Stderr, args[0], args[1:]...)
			if err != nil {
				return err
			}
			defer stop()
			return vectors.Run(all, ask, os.Stdout)
		},
	}
	c.Flags().StringVar(&dir, "vectors", "conformance/vectors/negative", "`DIR` with the vectors")
	return c
}
