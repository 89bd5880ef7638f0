"""Record stores as earlier releases left them."""

import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from edif.records import migrate

REVISIONS = [
    script.revision
    for script in reversed(list(ScriptDirectory.from_config(migrate._config()).walk_revisions()))
]
"""Every released schema, the first one first."""

FIRST_ROWS: dict[str, list[dict[str, object]]] = {
    "users": [{"name": "ada", "role": "operator", "email": None, "created_at": 1.5}],
    "api_keys": [{"id": "id1", "user": "ada", "digest": "digest1", "created_at": 2.5}],
    "jobs": [
        {
            "id": f"j{number}",
            "owner": "ada",
            "model": "m",
            "model_key": "k",
            "client_key": client_key,
            "compress": True,
            "env": "{}",
            "payload_bytes": 2**40,
            "created_at": float(number),
            "state": state,
            "attempts": number,
            "description": "Gr\u00fc\u00dfe",
            "meta": '{"run_s":1.5}',
            "blobs_deleted": False,
        }
        for number, (state, client_key) in enumerate(
            [("queued", "once"), ("running", None), ("completed", None)]
        )
    ],
    "attempts": [
        {
            "job": f"j{number}",
            "number": number,
            "agent": "a1",
            "replica": "r1",
            "started_at": 3.5,
            "lease_until": 4.5,
            "outcome": outcome,
        }
        for number, outcome in ((1, None), (2, "completed"))
    ],
}
"""What a store of the first release could hold, by table."""


def fill(connection: sa.Connection, revision: str) -> None:
    """Make an empty database a store of this schema, with ``FIRST_ROWS`` in it."""
    config = migrate._config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    old = sa.MetaData()
    old.reflect(connection)
    for table, rows in FIRST_ROWS.items():
        connection.execute(sa.insert(old.tables[table]), rows)
