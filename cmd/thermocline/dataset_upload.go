package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
	"github.com/thermocline/thermocline/schema"
)

// uploadBytes is about how much NDJSON goes into one data file.
const uploadBytes = 32 << 20

func (a *app) datasetUpload() *cobra.Command {
	var branch, format, kind string
	var ignoreUnknown bool
	c := &cobra.Command{
		Use:   "upload NAME FILE...",
		Short: "Upload files of rows to a dataset, all of them or none",
		Long: `Upload files to a dataset in one transaction: their rows become visible together, when
all are there, or not at all. NDJSON, CSV and Avro are rows, which are written to new data
files; a Parquet file is stored as it is. - is standard input.`,
		Example: `  thermocline dataset upload seismic.stations stations.parquet more.ndjson
  thermocline dataset upload seismic.stations today.csv --type SNAPSHOT`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			u := &uploader{publisher: publisher{
				a: a, remote: remote, stream: args[0], branch: branch, ignoreUnknown: ignoreUnknown,
				timeout: 5 * time.Minute, onRetry: func(error) {},
			}}
			t, err := u.run(c.Context(), client.TransactionType(*upper(kind)), format, args[1:])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(t)
			}
			_, err = fmt.Fprintf(a.out, "%s rows in %s files; snapshot %s\n", count(t.Rows), count(t.Files), text(t.SnapshotID))
			return err
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&format, "format", "", "of the files: ndjson, csv, parquet or avro (default: by content and name)")
	c.Flags().StringVar(&kind, "type", "APPEND", "APPEND adds the rows; SNAPSHOT puts them in the place of all others")
	c.Flags().BoolVar(&ignoreUnknown, "ignore-unknown", false, "drop fields that the schema does not have")
	return c
}

// uploader is one transaction of uploads.
type uploader struct {
	publisher
	id string
}

// run uploads the files. What fails ends the transaction, so that the next can
// begin; after a crash here it is open: see dataset abort.
func (u *uploader) run(ctx context.Context, kind client.TransactionType, format string, files []string) (t client.Transaction, err error) {
	resp, err := u.remote.BeginTransaction(ctx, u.stream, u.branch, &client.BeginTransactionParams{}, client.BeginTransaction{Type: kind})
	if err := u.a.answer(resp, err, &t); err != nil {
		return t, err
	}
	u.id = t.ID
	for i, file := range files {
		if err = u.file(ctx, i, file, format); err != nil {
			err = fmt.Errorf("upload %s: %w", file, err)
			break
		}
	}
	if err == nil {
		// Again until it is known: a commit may be repeated.
		err = u.retry(ctx, u.timeout, func(ctx context.Context) error {
			resp, err := u.remote.CommitTransaction(ctx, u.stream, u.branch, u.id)
			return u.a.answer(resp, err, &t)
		})
	}
	if err == nil {
		return t, nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	resp, aerr := u.remote.AbortTransaction(last, u.stream, u.branch, u.id)
	if aerr := u.a.answer(resp, aerr, nil); aerr != nil {
		return t, fmt.Errorf("%w; transaction %s could not be aborted: %w", err, u.id, aerr)
	}
	return t, err
}

func (u *uploader) file(ctx context.Context, number int, name, format string) error {
	in, err := u.a.openInput(name, format)
	if err != nil {
		return err
	}
	defer in.Close()
	if in.format == formatParquet {
		f, err := in.randomAccess()
		if err != nil {
			return err
		}
		return u.parquet(ctx, fmt.Sprintf("f%d", number), f)
	}
	sc, err := u.tableSchema(ctx)
	if err != nil {
		return err
	}
	src, err := openSource(in, sc)
	if err != nil {
		return err
	}
	return u.rows(ctx, number, src)
}

// tableSchema is needed to read CSV.
func (u *uploader) tableSchema(ctx context.Context) (*schema.Schema, error) {
	var v client.DatasetSchema
	resp, err := u.remote.GetDatasetSchema(ctx, u.stream, u.branch)
	if err := u.a.answer(resp, err, &v); err != nil {
		return nil, err
	}
	if v.Schema == nil {
		return nil, fmt.Errorf("rows cannot be written to it: %s", text(v.Unfit))
	}
	return schema.Parse(*v.Schema)
}

// rows sends the batches of a source, as many together as make a file of some size
// where their form allows that.
func (u *uploader) rows(ctx context.Context, number int, src source) error {
	var held batch
	sent := 0
	send := func() error {
		if len(held.body) == 0 {
			return nil
		}
		sent++
		body := held.body
		err := u.upload(ctx, fmt.Sprintf("f%d-%d", number, sent), held.contentType, func() (io.Reader, error) { return bytes.NewReader(body), nil })
		held = batch{}
		return err
	}
	for {
		b, err := src.next(ctx)
		if errors.Is(err, io.EOF) {
			return send()
		}
		if err != nil {
			return err
		}
		if len(held.body) > 0 && (b.contentType != "application/x-ndjson" || len(held.body)+len(b.body) > uploadBytes) {
			if err := send(); err != nil {
				return err
			}
		}
		held.contentType = b.contentType
		held.body = append(held.body, b.body...)
		if n := len(held.body); b.contentType == "application/x-ndjson" && n > 0 && held.body[n-1] != '\n' {
			held.body = append(held.body, '\n')
		}
	}
}

func (u *uploader) parquet(ctx context.Context, name string, f *os.File) error {
	return u.upload(ctx, name, "application/vnd.apache.parquet", func() (io.Reader, error) {
		_, err := f.Seek(0, io.SeekStart)
		// Hidden, so that the client does not close it: it may be sent again.
		return struct{ io.Reader }{f}, err
	})
}

// upload sends one body; the server takes one of the name, however often it comes.
func (u *uploader) upload(ctx context.Context, name, contentType string, body func() (io.Reader, error)) error {
	params := client.UploadFileParams{Name: &name}
	if u.ignoreUnknown {
		ignore := client.UploadFileParamsUnknownFieldsIgnore
		params.UnknownFields = &ignore
	}
	return u.retry(ctx, u.timeout, func(ctx context.Context) error {
		r, err := body()
		if err != nil {
			return err
		}
		resp, err := u.remote.UploadFileWithBody(ctx, u.stream, u.branch, u.id, &params, contentType, r)
		return u.a.answer(resp, err, nil)
	})
}

func (a *app) datasetTransactions() *cobra.Command {
	var branch string
	var limit int
	c := &cobra.Command{
		Use:   "transactions NAME",
		Short: "List the newest transactions on a dataset",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 1 || limit > 1000 {
				return usage("--limit %d: use 1 to 1000", limit)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var list client.TransactionList
			resp, err := remote.ListTransactions(c.Context(), args[0], branch, &client.ListTransactionsParams{Limit: &limit})
			if err := a.answer(resp, err, &list); err != nil {
				return err
			}
			rows := make([][]string, len(list.Transactions))
			for i, t := range list.Transactions {
				rows[i] = []string{t.ID, string(t.Type), string(t.State), when(t.CreatedAt), count(t.Files), count(t.Rows), text(t.SnapshotID)}
			}
			return a.show(list, "TRANSACTION TYPE STATE BEGUN FILES ROWS SNAPSHOT", rows)
		},
	}
	branchFlag(c, &branch)
	c.Flags().IntVar(&limit, "limit", 20, "most to list")
	return c
}

func (a *app) datasetAbort() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "abort NAME",
		Short: "Abort the transaction that is open on a dataset",
		Long: `Abort the open transaction, such as one whose upload was killed. Nothing of it was or
will be visible, and another one can begin.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			open, one := client.TransactionStateOPEN, 1
			var list client.TransactionList
			resp, err := remote.ListTransactions(c.Context(), args[0], branch, &client.ListTransactionsParams{State: &open, Limit: &one})
			if err := a.answer(resp, err, &list); err != nil {
				return err
			}
			if len(list.Transactions) == 0 {
				return fmt.Errorf("no transaction is open on %s", args[0])
			}
			var t client.Transaction
			resp, err = remote.AbortTransaction(c.Context(), args[0], branch, list.Transactions[0].ID)
			if err := a.answer(resp, err, &t); err != nil {
				return err
			}
			return a.show(t, "", [][]string{{"aborted", t.ID}})
		},
	}
	branchFlag(c, &branch)
	return c
}

func (a *app) datasetRemove() *cobra.Command {
	var branch, where string
	c := &cobra.Command{
		Use:   "remove NAME (--where PREDICATE | FILE...)",
		Short: "Remove whole data files from a dataset",
		Long: `Remove the files that are named, as dataset files lists them, or those whose rows all
match a predicate. A file of which only some rows match is an error, and nothing is removed.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (where == "") == (len(args) == 1) {
				return usage("dataset remove needs --where or the paths of files, not both")
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			body := client.BeginTransaction{Type: client.TransactionTypeDELETE}
			if where != "" {
				body.Where = &where
			}
			var t client.Transaction
			resp, err := remote.BeginTransaction(c.Context(), args[0], branch, &client.BeginTransactionParams{}, body)
			if err := a.answer(resp, err, &t); err != nil {
				return err
			}
			id := t.ID
			if len(args) > 1 {
				resp, err := remote.RemoveFiles(c.Context(), args[0], branch, id, client.RemoveFiles{Paths: args[1:]})
				err = a.answer(resp, err, &t)
				if err != nil {
					return a.giveUp(c, remote, args[0], branch, id, err)
				}
			}
			resp, err = remote.CommitTransaction(c.Context(), args[0], branch, id)
			if err := a.answer(resp, err, &t); err != nil {
				return a.giveUp(c, remote, args[0], branch, id, err)
			}
			return a.show(t, "", [][]string{{"transaction", t.ID}, {"snapshot", text(t.SnapshotID)}})
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&where, "where", "", "remove the files whose rows all match, like \"day < date '2024-01-01'\"")
	return c
}

// giveUp aborts a transaction for err.
func (a *app) giveUp(c *cobra.Command, remote *client.Client, name, branch, id string, err error) error {
	last, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), 10*time.Second)
	defer cancel()
	resp, aerr := remote.AbortTransaction(last, name, branch, id)
	if aerr := a.answer(resp, aerr, nil); aerr != nil {
		return fmt.Errorf("%w; transaction %s could not be aborted: %w", err, id, aerr)
	}
	return err
}
