// Command exactly-once-go copies a stream into a SQLite table, each row once,
// whatever is killed when: this program, the server, or both.
//
// The server sends rows in numbered epochs of fixed contents. The rows of an
// epoch and the position behind it go into the database in one transaction: both
// are there or neither. After a crash the program passes the stored position as
// resume, and gets what is missing, and nothing else.
//
//	go run ./examples/exactly-once-go -stream quakes -db quakes.db
package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"time"

	_ "modernc.org/sqlite"
)

func main() {
	server := flag.String("server", "http://127.0.0.1:8080", "address of the server")
	stream := flag.String("stream", "", "name of the stream")
	group := flag.String("group", "exactly-once", "name of the subscriber")
	file := flag.String("db", "rows.db", "the SQLite database")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	db, err := sql.Open("sqlite", "file:"+*file+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `
		CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, row TEXT NOT NULL);
		CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), session INTEGER NOT NULL, cursor TEXT NOT NULL);
		INSERT OR IGNORE INTO position VALUES (1, 0, '')`); err != nil {
		log.Fatal(err)
	}
	c := &consumer{db: db, group: *group, base: *server + "/v1/streams/" + url.PathEscape(*stream) + "/branches/main/subscribers"}
	for {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Printf("joining again: %v", err)
		time.Sleep(200 * time.Millisecond)
	}
}

type consumer struct {
	db          *sql.DB
	base, group string
}

// mark is what the server sends between rows.
type mark struct {
	Kind    string          `json:"_thermocline"`
	Session int64           `json:"session"`
	Cursor  string          `json:"cursor"`
	Problem json.RawMessage `json:"problem"`
}

// follow joins the subscriber and copies epochs until something breaks.
func (c *consumer) follow(ctx context.Context) error {
	err := c.post(ctx, c.base, map[string]any{"id": c.group, "consistency": "EXACTLY_ONCE"}, http.StatusConflict) // conflict: it is there
	if err != nil {
		return err
	}
	var resume string
	if err := c.db.QueryRowContext(ctx, `SELECT cursor FROM position`).Scan(&resume); err != nil {
		return err
	}
	q := url.Values{"member": {"copy"}} // a name of its own takes over from its former self at once
	if resume != "" {
		q.Set("resume", resume)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(time.Minute, cancel) // heartbeats come every 10 s
	defer silent.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/"+c.group+"/rows?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("join: %s: %s", resp.Status, text)
	}
	var session int64
	var rows []string // of the epoch that is not complete yet
	for in := bufio.NewReader(resp.Body); ; silent.Reset(time.Minute) {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0: // a heartbeat
			continue
		case !bytes.HasPrefix(line, []byte(`{"_thermocline":`)): // a row
			rows = append(rows, string(line))
			continue
		}
		var m mark
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		switch m.Kind {
		case "assignment": // it voids what came since the last checkpoint
			rows = nil
			if m.Session != session {
				if err := c.claim(ctx, m.Session, resume); err != nil {
					return err
				}
				session = m.Session
			}
		case "checkpoint":
			if err := c.store(ctx, session, rows, m.Cursor); err != nil {
				return err
			}
			rows = nil
			// The server may be told late or never: the position that counts is ours.
			if err := c.post(ctx, c.base+"/"+c.group+"/commit", map[string]any{"session": session, "cursor": m.Cursor}, 0); err != nil {
				return err
			}
		case "error":
			return fmt.Errorf("the server ends the read: %s", m.Problem)
		}
	}
}

// claim makes this session the only one that may write. It fails when another run
// has stored rows since the position was read that this session began at, or has
// a newer session.
func (c *consumer) claim(ctx context.Context, session int64, resume string) error {
	return one(c.db.ExecContext(ctx, `UPDATE position SET session = ? WHERE session < ? AND cursor = ?`, session, session, resume))
}

// store writes an epoch and the position behind it, both or neither, and nothing
// when a newer session has claimed the database: then this run is the past.
func (c *consumer) store(ctx context.Context, session int64, rows []string, cursor string) error {
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
	for _, row := range rows {
		if _, err := tx.ExecContext(ctx, `INSERT INTO rows (row) VALUES (?)`, row); err != nil {
			return err
		}
	}
	if err := one(tx.ExecContext(ctx, `UPDATE position SET cursor = ? WHERE session = ?`, cursor, session)); err != nil {
		return err
	}
	return tx.Commit()
}

func one(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errors.New("another run has taken over the database"))
	}
	return nil
}

func (c *consumer) post(ctx context.Context, address string, body any, fine int) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode >= 300 && resp.StatusCode != fine {
		return errors.Join(err, fmt.Errorf("%s: %s: %s", address, resp.Status, answer))
	}
	return nil
}
