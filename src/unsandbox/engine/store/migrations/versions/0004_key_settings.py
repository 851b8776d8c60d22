"""Tier, expiry and limits of a key."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column."""
    op.add_column("keys", sa.Column("settings", sa.LargeBinary))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("keys", "settings")
