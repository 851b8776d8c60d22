"""The tables of the database, for SQLAlchemy Core; migrations create them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

jobs_table = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("language", sa.String(32), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("completed_at", sa.Float),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("result", sa.LargeBinary),
    sa.Index("jobs_by_owner", "owner", "created_at"),
    sa.Index("jobs_by_idempotency_key", "owner", "idempotency_key", unique=True),
)

objects_table = sa.Table(
    "objects",
    metadata,
    sa.Column("object_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Index("objects_by_kind", "kind"),
)

keys_table = sa.Table(
    "keys",
    metadata,
    sa.Column("public_key", sa.String(64), primary_key=True),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("note", sa.String(200), nullable=False, server_default=""),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
    sa.Column("sealed_otp", sa.LargeBinary),
    sa.Column("settings", sa.LargeBinary),
)
