"""One-time codes of a key."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("keys", sa.Column("sealed_otp", sa.LargeBinary))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("keys", "sealed_otp")
