"""Sessions, services, snapshots, images and vaults: one row each, what it is in a document."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "objects",
        sa.Column("object_id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    op.create_index("objects_by_kind", "objects", ["kind"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("objects")
