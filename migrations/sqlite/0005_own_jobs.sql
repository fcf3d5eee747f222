-- A user's jobs, by status and newest first: lists, and how many a session has.
create index jobs_owner on jobs (subject, tenant, status, id);

-- What a job can be found by: written once, with the job.
create table job_tags (
    subject text not null,
    tenant text not null,
    name text not null,
    value text not null,
    job_id blob not null references jobs (id) on delete cascade,
    primary key (subject, tenant, name, value, job_id)
) strict, without rowid;
create index job_tags_job on job_tags (job_id);

insert into job_tags (subject, tenant, name, value, job_id)
    select subject, tenant, tag.key, tag.value, jobs.id from jobs, json_each(jobs.tags) as tag;

-- Among its owner's jobs: greater goes first.
alter table jobs add column priority integer not null default 0;
-- When its user last let it go on after a fault: its deadline counts from here.
alter table jobs add column retried_at integer;

-- Whose turn it is among one user's jobs, where somebody said so.
create index jobs_priority on jobs (subject, tenant, priority desc, due_at)
    where priority > 0 and status in ('pending', 'waiting');

-- The ids of a batch, 16 bytes each, in its order; null: `job_id` alone.
alter table idempotency_keys add column batch blob;

-- What goes with a deleted job.
create index idempotency_keys_job on idempotency_keys (job_id);
