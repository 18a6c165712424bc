-- +goose Up

CREATE TABLE owners (
    id         text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id         text PRIMARY KEY,
    owner      text NOT NULL REFERENCES owners (id),
    name       text NOT NULL,
    -- SHA-256 of the key; keys hold 160 random bits, so no slow hash is needed.
    hash       bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    -- The key's first characters, to recognise it by.
    prefix     text NOT NULL,
    role       text NOT NULL CHECK (role IN ('read', 'write', 'admin')),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_keys_owner ON api_keys (owner);

CREATE TABLE assets (
    id             text PRIMARY KEY CHECK (id ~ '^[a-z2-7]{26}$'),
    owner          text NOT NULL REFERENCES owners (id),
    title          text NOT NULL,
    state          text NOT NULL DEFAULT 'waiting'
                   CHECK (state IN ('waiting', 'uploading', 'received', 'playable', 'ready', 'failed')),
    failure_code   text,
    failure_detail text,
    visibility     text NOT NULL CHECK (visibility IN ('public', 'unlisted', 'private')),
    placement      text NOT NULL CHECK (placement IN ('all', 'two', 'pinned')),
    -- The only regions allowed when pinned, else empty.
    regions        text[] NOT NULL DEFAULT '{}',
    -- Where it was created; its work is offered there first.
    region         text NOT NULL,
    size           bigint,
    sha256         bytea,
    duration_ms    bigint,
    -- The run viewers see; null until one is playable.
    current_run    integer,
    -- Content of the newest playback record, without n, to tell whether a new one is due.
    playback       jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    received_at    timestamptz,
    playable_at    timestamptz,
    ready_at       timestamptz,
    failed_at      timestamptz,
    deleted_at     timestamptz,
    CHECK (placement <> 'pinned' OR cardinality(regions) > 0)
);
CREATE INDEX assets_listing ON assets (owner, created_at DESC, id DESC) WHERE deleted_at IS NULL;

CREATE TABLE idempotency_keys (
    owner      text NOT NULL REFERENCES owners (id),
    key        text NOT NULL,
    -- SHA-256 of the request, so that a key reused for another request is refused.
    request    bytea NOT NULL,
    asset      text NOT NULL REFERENCES assets (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, key)
);

CREATE TABLE uploads (
    id           text PRIMARY KEY,
    asset        text NOT NULL UNIQUE REFERENCES assets (id),
    state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'finished', 'failed')),
    -- Declared length; null while the client has deferred it.
    size         bigint CHECK (size >= 0),
    -- Bytes acknowledged: the sum of the parts.
    received     bigint NOT NULL DEFAULT 0 CHECK (received >= 0 AND (size IS NULL OR received <= size)),
    filename     text NOT NULL DEFAULT '',
    content_type text NOT NULL DEFAULT '',
    metadata     jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX uploads_expiry ON uploads (expires_at) WHERE state = 'open';

-- A source is its part list: n dense from 0, each starting where the last ended.
CREATE TABLE parts (
    asset   text NOT NULL REFERENCES assets (id),
    n       integer NOT NULL CHECK (n >= 0),
    id      text NOT NULL,
    start   bigint NOT NULL CHECK (start >= 0),
    size    bigint NOT NULL CHECK (size > 0),
    sha256  bytea NOT NULL CHECK (length(sha256) = 32),
    -- Regions that acknowledged the PUT.
    regions text[] NOT NULL,
    PRIMARY KEY (asset, n)
);

CREATE TABLE runs (
    asset          text NOT NULL REFERENCES assets (id),
    n              integer NOT NULL CHECK (n > 0),
    state          text NOT NULL DEFAULT 'planned'
                   CHECK (state IN ('planned', 'encoding', 'playable', 'complete', 'failed', 'cancelled')),
    profile        text NOT NULL,
    plan           jsonb,
    -- Newest master allocated, 0 before the first, and the renditions it lists.
    master         integer NOT NULL DEFAULT 0,
    offered        text[] NOT NULL DEFAULT '{}',
    -- Whether that master is the last one, with measured bandwidths.
    final          boolean NOT NULL DEFAULT false,
    failure_code   text,
    failure_detail text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    PRIMARY KEY (asset, n)
);

CREATE TABLE renditions (
    asset       text NOT NULL,
    run         integer NOT NULL,
    id          text NOT NULL,
    track       text NOT NULL,
    -- An hls.Rendition; its bandwidth is the cap until measured.
    description jsonb NOT NULL,
    PRIMARY KEY (asset, run, id),
    FOREIGN KEY (asset, run) REFERENCES runs (asset, n)
);

CREATE TABLE tasks (
    -- {asset}/{run}/{track}/{chunk}, {asset}/{run}/plan, …: planning twice can't make a task twice.
    id            text PRIMARY KEY,
    asset         text NOT NULL REFERENCES assets (id),
    run           integer NOT NULL,
    owner         text NOT NULL REFERENCES owners (id),
    class         text NOT NULL CHECK (class IN ('first', 'ladder', 'extra')),
    kind          text NOT NULL CHECK (kind IN ('plan', 'video', 'audio', 'extra', 'cleanup')),
    track         text NOT NULL DEFAULT '',
    chunk         integer NOT NULL DEFAULT 0,
    spec          jsonb NOT NULL DEFAULT '{}',
    state         text NOT NULL DEFAULT 'queued'
                  CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    -- Counts claims; results are accepted from the newest attempt only.
    attempt       integer NOT NULL DEFAULT 0,
    -- Counts attempts that ended badly, lost workers included.
    failures      integer NOT NULL DEFAULT 0,
    lease_until   timestamptz,
    worker        text NOT NULL DEFAULT '',
    -- Region the task is offered in first.
    region        text NOT NULL,
    -- Regions it may run in when pinned, else empty.
    pinned        text[] NOT NULL DEFAULT '{}',
    -- Counts messages sent for it, and up when it is queued again, so that a dispatcher
    -- that notes its message late notes nothing. dispatched_at is null while none is under way.
    dispatch      integer NOT NULL DEFAULT 0,
    dispatched_at timestamptz,
    -- The pinned region its last message went to, empty for work that any may do.
    dispatched_to text NOT NULL DEFAULT '',
    -- Not before this time: backoff after a failure, grace before a deletion.
    not_before    timestamptz NOT NULL DEFAULT now(),
    frames        bigint NOT NULL DEFAULT 0,
    frames_total  bigint NOT NULL DEFAULT 0,
    error_code    text NOT NULL DEFAULT '',
    error_detail  text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    ended_at      timestamptz,
    -- When a task that failed through no fault of its source was told to the dead letters.
    buried_at     timestamptz
);
CREATE INDEX tasks_run ON tasks (asset, run);
CREATE INDEX tasks_waiting ON tasks (class, owner, created_at) WHERE state = 'queued';
CREATE INDEX tasks_leases ON tasks (lease_until) WHERE state = 'running';
CREATE INDEX tasks_unburied ON tasks (id) WHERE state = 'failed' AND error_code = 'internal' AND buried_at IS NULL;
CREATE INDEX tasks_cleanup ON tasks (not_before) WHERE kind = 'cleanup' AND state IN ('queued', 'running');

-- Winners only: the row names the attempt whose objects count.
CREATE TABLE chunks (
    asset        text NOT NULL,
    run          integer NOT NULL,
    track        text NOT NULL,
    chunk        integer NOT NULL CHECK (chunk >= 0),
    attempt      integer NOT NULL,
    last         boolean NOT NULL,
    -- The bytes of records/{chunk}.json, fixed before the first PUT.
    record       bytea NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    PRIMARY KEY (asset, run, track, chunk),
    FOREIGN KEY (asset, run) REFERENCES runs (asset, n)
);

-- Gapless numbers of playback records and journals.
CREATE TABLE sequences (
    scope text PRIMARY KEY,
    n     bigint NOT NULL
);

CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Rows of a lane are published strictly in order: an asset id, or the name of a journal.
    lane       text NOT NULL,
    asset      text REFERENCES assets (id),
    -- [{key, body}], PUT in order.
    objects    jsonb NOT NULL DEFAULT '[]',
    event      jsonb,
    -- What becomes visible once the objects are stored.
    effect     jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Claim and backoff: nobody else publishes the row before this time.
    hold_until timestamptz NOT NULL DEFAULT now(),
    failures   integer NOT NULL DEFAULT 0,
    error      text NOT NULL DEFAULT '',
    stored_at  timestamptz,
    done_at    timestamptz,
    sent_at    timestamptz
);
CREATE INDEX outbox_undone ON outbox (lane, id) WHERE done_at IS NULL;
CREATE INDEX outbox_unsent ON outbox (lane, id) WHERE done_at IS NOT NULL AND sent_at IS NULL;
CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;

-- Encoders seen lately; how much work is dispatched follows from their slots.
CREATE TABLE workers (
    id      text PRIMARY KEY,
    region  text NOT NULL,
    slots   integer NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- Jobs one process does at a time. Nothing depends on there never being two.
CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    held_until timestamptz NOT NULL
);

-- +goose StatementBegin
CREATE FUNCTION meridian_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER outbox_inserted AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION meridian_notify('meridian_outbox');
CREATE TRIGGER outbox_stored AFTER UPDATE OF stored_at ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION meridian_notify('meridian_outbox');
CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks
    FOR EACH STATEMENT EXECUTE FUNCTION meridian_notify('meridian_tasks');
CREATE TRIGGER tasks_changed AFTER UPDATE OF state ON tasks
    FOR EACH STATEMENT EXECUTE FUNCTION meridian_notify('meridian_tasks');

-- +goose Down
DROP TABLE leases, workers, outbox, sequences, chunks, tasks, renditions, runs, parts, uploads, idempotency_keys, assets, api_keys, owners;
DROP FUNCTION meridian_notify();
