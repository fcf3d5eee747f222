-- Calls at once to an API that limits them, by all processes together: who holds a slot may call.
create table call_slots (
    -- Name of the API in the configuration.
    api text not null,
    -- From 1 to the limit.
    slot integer not null check (slot > 0),
    -- Of one call, made up for it; null: the slot is free.
    holder blob,
    -- Free from then on, too: a holder that died gives nothing back.
    held_until integer,
    primary key (api, slot),
    check ((holder is null) = (held_until is null))
) strict;
