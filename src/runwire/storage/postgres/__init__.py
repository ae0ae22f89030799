"""The PostgreSQL adapter: many processes share one database, and its clock decides who owns a run."""
