package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/client/api"
)

func (a *app) personCommand() *cobra.Command {
	return group("person", "People and machines that may call the admin API",
		a.personAdd(), a.personList(), a.personToken(), a.personDisable())
}

func (a *app) personAdd() *cobra.Command {
	c := &cobra.Command{Use: "add NAME", Short: "Make an account, and write its token to a file", Args: cobra.ExactArgs(1)}
	roles := c.Flags().StringArray("role", nil, "admin, operator, auditor or ci; once per `ROLE`")
	days := c.Flags().Int("days", 90, "how long the token lives, 1 to 400 `DAYS`")
	out := tokenOut(c)
	required(c, "role")
	c.RunE = a.run("add the person", func(ctx context.Context, args []string) error {
		return a.withToken(*out, func(client *api.Client) (string, any, error) {
			created, err := client.CreatePerson(ctx, api.PersonRequest{Name: args[0], Roles: *roles, Days: *days})
			return created.Token, created.Person, err
		})
	})
	return c
}

func (a *app) personToken() *cobra.Command {
	c := &cobra.Command{Use: "token NAME", Short: "Make a new token for a person; the old ones end", Args: cobra.ExactArgs(1)}
	days := c.Flags().Int("days", 90, "how long the token lives, 1 to 400 `DAYS`")
	out := tokenOut(c)
	c.RunE = a.run("make a token", func(ctx context.Context, args []string) error {
		return a.withToken(*out, func(client *api.Client) (string, any, error) {
			created, err := client.RenewToken(ctx, args[0], *days)
			return created.Token, created.Person, err
		})
	})
	return c
}

func tokenOut(c *cobra.Command) *string {
	out := c.Flags().String("token-out", "", "new `FILE` for the token; only you will be able to read it")
	required(c, "token-out")
	return out
}

// withToken makes the file before it asks for the token: a token comes once, and must not be lost to a full disk or a
// missing folder.
func (a *app) withToken(path string, ask func(client *api.Client) (token string, shown any, err error)) error {
	client, err := a.server.client()
	if err != nil {
		return err
	}
	f, err := createNew(path, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the token file: %w", err)
	}
	token, shown, err := ask(client)
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	_, err = f.WriteString(token + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write the token, make a new one: %w", err)
	}
	return a.print(shown, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "token written to %s; it is shown nowhere else\n", path)
		return err
	})
}

func (a *app) personList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the accounts", Args: cobra.NoArgs}
	c.RunE = a.run("list people", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		people, err := all(ctx, client.People)
		if err != nil {
			return err
		}
		return a.print(people, func(w io.Writer) error {
			var rows [][]string
			for _, p := range people {
				state := "active"
				if p.Disabled {
					state = "disabled"
				}
				rows = append(rows, []string{p.Name, words(p.Roles), state, moment(p.CreatedAt), moment(p.ExpiresAt)})
			}
			return table(w, []string{"NAME", "ROLES", "STATE", "CREATED", "TOKEN ENDS"}, rows)
		})
	})
	return c
}

func (a *app) personDisable() *cobra.Command {
	c := &cobra.Command{Use: "disable NAME", Short: "Disable an account; its tokens end at once", Args: cobra.ExactArgs(1)}
	c.RunE = a.run("disable the person", func(ctx context.Context, args []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		if err := client.RemovePerson(ctx, args[0]); err != nil {
			return err
		}
		return a.done("disabled", args[0])
	})
	return c
}

// done is the answer of a command that returns nothing else.
func (a *app) done(what, subject string) error {
	return a.print(map[string]string{"done": what, "subject": subject}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s\n", plain(subject), what)
		return err
	})
}
