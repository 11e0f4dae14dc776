-- Roles of a fleet's database; to be run in it, before `autotune fleet init`, by a superuser. Running it again changes nothing.
--
--   autotune_owner   owns the tables and migrates them; nothing that runs on a node needs it
--   autotune_node    reads, and adds rows of its own; cannot change or delete what is there
--   autotune_reader  reads
--
-- None can log in. Make logins of your own, one for each node if you want to know which wrote what:
--   CREATE ROLE fleet_admin LOGIN PASSWORD '...' IN ROLE autotune_owner;
--   CREATE ROLE node17 LOGIN PASSWORD '...' IN ROLE autotune_node;

DO $$
DECLARE wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['autotune_owner', 'autotune_node', 'autotune_reader'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', wanted);
    END IF;
  END LOOP;
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO autotune_owner, autotune_node, autotune_reader', current_database());
  -- A node that hangs in the middle of something must not hold up the others.
  EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = ''30s''', current_database());
  EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''60s''', current_database());
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA IF NOT EXISTS fleet AUTHORIZATION autotune_owner;
GRANT USAGE ON SCHEMA fleet TO autotune_node, autotune_reader;
-- Studies that nodes search together. Optuna's tables, which a node may also change, but nothing may be deleted.
CREATE SCHEMA IF NOT EXISTS studies AUTHORIZATION autotune_owner;
GRANT USAGE ON SCHEMA studies TO autotune_node, autotune_reader;
