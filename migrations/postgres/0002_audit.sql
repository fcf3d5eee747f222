-- What happened to a job, for its owner: written with the change it tells of.
create table job_events (
    job_id uuid not null references jobs (id) on delete cascade,
    -- The job's revision after the change.
    sequence bigint not null,
    at timestamptz not null,
    kind text not null,
    -- JSON object; no inputs, outputs, claims or tokens
    data text not null,
    primary key (job_id, sequence)
);

-- What happened to a session's grant, for the owners of its jobs.
create table session_events (
    session_id uuid not null references sessions (id) on delete cascade,
    -- The session's version after the change.
    sequence bigint not null,
    at timestamptz not null,
    kind text not null,
    -- JSON object; no claims or tokens
    data text not null,
    primary key (session_id, sequence)
);

-- What was called in the user's name; written with the record that follows the call.
create table job_calls (
    job_id uuid not null references jobs (id) on delete cascade,
    -- The job's revision after that record, and the call's number among those it brought.
    sequence bigint not null,
    ordinal integer not null,
    -- When it was sent.
    at timestamptz not null,
    duration_ms bigint not null,
    task text not null,
    api text not null,
    -- JSON array: what the token was asked for with
    scopes text not null,
    method text not null,
    -- encrypted; without the query
    path bytea not null,
    attempt integer not null,
    outcome text not null,
    -- Null without an answer.
    status integer,
    primary key (job_id, sequence, ordinal)
);
