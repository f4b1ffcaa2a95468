BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'state','0001_prompts','2026-11-25 11:12:49.854136+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'state','0002_turns','2026-11-25 11:12:49.855197+00:00');
CREATE TABLE addresses (                        -- who waits for a prompt that is not finished
            inbox_seq INTEGER NOT NULL REFERENCES inbox (seq),
            topic TEXT NOT NULL,
            correlation BLOB NOT NULL,                  -- empty: none
            acks INTEGER NOT NULL,                      -- whether the receiver sends the id to `acks`
            expires_at REAL,                            -- node time; NULL: when the result itself goes
            PRIMARY KEY (inbox_seq, topic, correlation)
        ) STRICT, WITHOUT ROWID;
INSERT INTO "addresses" VALUES(2,'results/running',X'01',0,NULL);
INSERT INTO "addresses" VALUES(3,'my/topic',X'02',0,50.0);
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), elapsed REAL NOT NULL) STRICT;
INSERT INTO "clock" VALUES(1,0.0);
CREATE TABLE inbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,      -- arrival order
            sender TEXT NOT NULL,                       -- '' where the topic named none
            id TEXT NOT NULL,
            digest BLOB NOT NULL,                       -- SHA-256 of the body
            body BLOB,                                  -- NULL once finished
            state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done')),
            runs INTEGER NOT NULL DEFAULT 0,            -- how often it was begun, counted before it runs
            lives INTEGER NOT NULL DEFAULT 0,           -- Workers that died while it ran
            received_at REAL NOT NULL,                  -- node time, see State.now
            finished_at REAL, attempts INTEGER NOT NULL DEFAULT 0,
            UNIQUE (sender, id)
        ) STRICT;
INSERT INTO "inbox" VALUES(1,'ann','done',X'B4F3F6AF294BFA8648B856FA5D7923196D89904E9AF5842350EEA9B1F2C449A9',NULL,'done',1,0,0.0,0.0,1);
INSERT INTO "inbox" VALUES(2,'','running',X'AAACD7DCB23650FEBF34E346D5774C6934EB0A6A3C6A34F847C8E2AA9342CF28',X'626F64792D72756E6E696E67','running',1,0,0.0,NULL,1);
INSERT INTO "inbox" VALUES(3,'','waiting',X'D5B89E2949B7A850B8AD96072BC8066DCB1F928FAF2786A2E7F033F2D9CF6045',X'626F64792D77616974696E67','waiting',0,0,0.0,NULL,0);
CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,      -- in the order of publication
            inbox_seq INTEGER REFERENCES inbox (seq),   -- its result is what to publish; else `payload` is
            payload BLOB,
            topic TEXT NOT NULL,
            correlation BLOB NOT NULL,
            acks INTEGER NOT NULL,
            expires_at REAL NOT NULL,
            UNIQUE (inbox_seq, topic, correlation)
        ) STRICT;
INSERT INTO "outbox" VALUES(1,1,NULL,'results/ann/done',X'',1,1000.0);
INSERT INTO "outbox" VALUES(2,NULL,X'616E206572726F72','errors',X'',0,1000.0);
CREATE TABLE results (
            inbox_seq INTEGER PRIMARY KEY REFERENCES inbox (seq),
            payload BLOB NOT NULL                       -- the bytes as they were published
        ) STRICT;
INSERT INTO "results" VALUES(1,X'74686520726573756C74');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX inbox_finished ON inbox (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX outbox_expiry ON outbox (expires_at);
CREATE INDEX inbox_waiting ON inbox (sender, seq) WHERE state = 'waiting';
CREATE INDEX inbox_running ON inbox (sender) WHERE state = 'running';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('inbox',3);
INSERT INTO "sqlite_sequence" VALUES('outbox',2);
COMMIT;
