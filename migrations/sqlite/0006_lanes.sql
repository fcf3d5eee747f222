-- What a worker may take now is `ready`; so delayed, suspended, running and finished jobs are not in
-- the index that workers look into. Of each user there is a lane, and workers take from the lanes in
-- turn: nobody's ten thousand jobs stand before another's one.

-- Its owner's; a few owners may share one.
alter table jobs add column lane integer not null default 0;
alter table jobs add column ready integer not null default false
    check (not ready or status in ('pending', 'waiting', 'suspended'));

update jobs set ready = true
    where status in ('pending', 'waiting', 'suspended')
      and due_at <= cast(unixepoch('subsec') * 1000000 as integer);

drop index jobs_due;
drop index jobs_priority;
create index jobs_ready on jobs (lane, priority desc, due_at) where ready;
-- What becomes ready, and when. A suspended job waits here for its deadline.
create index jobs_due on jobs (due_at) where not ready and due_at is not null;
