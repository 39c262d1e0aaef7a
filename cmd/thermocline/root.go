package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// The exit codes.
const (
	exitOK    = 0
	exitFail  = 1 // the operation failed
	exitUsage = 2 // the command line was wrong; nothing was done
)

// defaultServer is where serve listens by default.
const defaultServer = "http://127.0.0.1:8080"

// terminal is the surroundings of a run.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// app is one run of the command line.
type app struct {
	terminal
	server  string
	output  string
	started bool   // arguments and flags were right
	idle    func() // closes idle connections
}

// usageError is a mistake in the command line that flags and arguments alone
// do not show.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// run runs one command line and returns the exit code.
func run(ctx context.Context, t terminal, args []string) int {
	a := &app{terminal: t, idle: func() {}}
	defer func() { a.idle() }()
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var coded *codedError
	if errors.As(err, &coded) && coded.quiet {
		return coded.code
	}
	fmt.Fprintf(t.err, "thermocline: %v\n", err)
	var wrong *usageError
	if !a.started || errors.As(err, &wrong) {
		fmt.Fprintln(t.err, "Help: thermocline --help, or --help behind a command.")
		return exitUsage
	}
	if coded != nil {
		return coded.code
	}
	return exitFail
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "thermocline",
		Short: "Hot and cold tiered stream storage",
		Long: `Thermocline keeps streams of rows in two layers, a durable hot buffer and a
versioned dataset (Apache Iceberg), and reads both as one.

Exit codes: 0 done, 1 the operation failed, 2 the command line was wrong (of verify:
1 there are findings, 2 the check could not be made).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usage("--output %q: use table or json", a.output)
			}
			a.started = true
			return nil
		},
	}
	group(root)
	server := os.Getenv("THERMOCLINE_SERVER")
	if server == "" {
		server = defaultServer
	}
	root.PersistentFlags().StringVar(&a.server, "server", server, "address of the server (or THERMOCLINE_SERVER)")
	root.PersistentFlags().StringVar(&a.output, "output", "table", "form of the output: table or json")
	root.AddCommand(serveCommand(), a.streamCommand(), a.branchCommand(), a.tagCommand(), a.ingestCommand(), a.readCommand(), a.tailCommand(), a.subscribeCommand(), a.subscriberCommand(), a.archiveCommand(),
		a.offsetsCommand(), a.datasetCommand(), a.verifyCommand(), a.demoCommand(), a.versionCommand())
	return root
}

// group makes a command that only holds others: alone it prints its help, with
// an unknown word it is a mistake.
func group(c *cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("unknown command %q for %q", args[0], c.CommandPath())
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}
