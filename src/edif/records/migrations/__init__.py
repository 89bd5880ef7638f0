"""Alembic's environment; ``records/migrate.py`` runs it, there is no alembic.ini."""
