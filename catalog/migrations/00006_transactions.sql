-- +goose Up

-- A change of a dataset that becomes visible as a whole.
CREATE TABLE transactions (
    id          TEXT   NOT NULL PRIMARY KEY,
    branch_id   BIGINT NOT NULL REFERENCES branches (id) ON DELETE CASCADE,
    type        TEXT   NOT NULL CHECK (type IN ('APPEND', 'SNAPSHOT', 'DELETE')),
    state       TEXT   NOT NULL CHECK (state IN ('OPEN', 'COMMITTED', 'ABORTED')),
    filter      TEXT   NOT NULL,
    files       BIGINT NOT NULL,
    row_count   BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    snapshot_id BIGINT NOT NULL,
    created_ms  BIGINT NOT NULL,
    used_ms     BIGINT NOT NULL,
    ended_ms    BIGINT NOT NULL
);
CREATE UNIQUE INDEX transactions_open ON transactions (branch_id) WHERE state = 'OPEN';
CREATE INDEX transactions_branch ON transactions (branch_id, created_ms, id);

-- Files of OPEN transactions: nothing else leads to them.
CREATE TABLE transaction_files (
    transaction_id TEXT   NOT NULL REFERENCES transactions (id) ON DELETE CASCADE,
    name           TEXT   NOT NULL,
    location       TEXT   NOT NULL,
    row_count      BIGINT NOT NULL,
    bytes          BIGINT NOT NULL,
    body           TEXT   NOT NULL,
    PRIMARY KEY (transaction_id, name)
);
CREATE INDEX transaction_files_location ON transaction_files (location);

-- +goose Down
DROP TABLE transaction_files;
DROP TABLE transactions;
