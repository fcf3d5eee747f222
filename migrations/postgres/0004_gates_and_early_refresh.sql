-- Token requests that would be refused alike are held, by all processes together.
create table gates (
    -- Errand's own client id, and the tenant that the requests are about.
    client_id text not null,
    tenant text not null,
    -- Name of the API whose requests are held; empty: all of this client in this tenant.
    api text not null,
    -- Whose turn it is: the provider asked for patience, or the operator has to mend something.
    reason text not null check (reason in ('throttled', 'operator')),
    -- No request before this; afterwards one at a time, until the provider answers one.
    not_before timestamptz not null,
    primary key (client_id, tenant, api)
);

-- When the provider last gave tokens for this grant.
alter table grants add column refreshed_at timestamptz;
update grants set refreshed_at = (select refreshed_at from sessions where id = session_id);
alter table grants alter column refreshed_at set not null;
-- No refresh merely to keep the grant alive before this.
alter table grants add column keep_alive_at timestamptz;
-- How often in a row the provider saw a request loop.
alter table grants add column loops integer not null default 0;
-- The provider called the refresh token dead; access tokens may be left.
alter table grants add column dead boolean not null default false;

-- From when on it is renewed beside its use: the provider's hint, spread; null: it gave none.
alter table access_tokens add column refresh_at timestamptz;
