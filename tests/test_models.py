"""The table: what the migrations say, and what the models say."""

import pytest
from django.core.management import call_command

from idempotency.models import IdempotencyRecord


@pytest.mark.django_db
@pytest.mark.parametrize(
    "field", ["django.db.models.BigAutoField", "django.db.models.SmallAutoField"]
)
def test_the_migrations_say_what_the_models_say(settings, field):
    """Whatever primary keys the project likes: the record brings its own."""
    settings.DEFAULT_AUTO_FIELD = field
    call_command("makemigrations", "idempotency", check=True, dry_run=True, verbosity=0)


def test_constraints_and_indexes_have_names_of_their_own():
    """A generated name changes with the fields, and a migration with it."""
    options = IdempotencyRecord._meta
    names = [thing.name for thing in (*options.constraints, *options.indexes)]
    assert names == ["idempotency_scope_key", "idempotency_purge_at", "idempotency_key"]
    assert options.db_table == "idempotency_record"
