package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) streamSchema() *cobra.Command {
	var branch, file string
	c := &cobra.Command{
		Use:     "schema NAME",
		Short:   "Show the fields of a stream, or evolve them",
		Example: "  thermocline stream schema quakes --branch experiment --evolve wider.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var v client.SchemaVersion
			if file == "" {
				resp, err := remote.GetSchema(c.Context(), args[0], branch)
				if err := a.answer(resp, err, &v); err != nil {
					return err
				}
			} else {
				form, err := a.readSchema(file)
				if err != nil {
					return fmt.Errorf("evolve the schema of %s: %w", args[0], err)
				}
				resp, err := remote.EvolveSchema(c.Context(), args[0], branch, form)
				if err := a.answer(resp, err, &v); err != nil {
					return err
				}
			}
			if a.output == "json" {
				return a.printJSON(v)
			}
			fmt.Fprintf(a.out, "schema id %d, version %d of branch %s\n", v.ID, v.Version, branch)
			return a.printFields(v)
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&file, "evolve", "", "file with the new schema: our JSON form or an Avro schema; - is standard input")
	return c
}
