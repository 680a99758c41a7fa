"""Promotion into a second model, `kgt-<task>-<into>`, which gets copies of what won."""

from kgt.registry import fetch
from tests.training.promoting import TASK, Register, alias, decide
from training import tracking


def test_promotion_into_a_second_model_copies_what_won(images: str, register: Register) -> None:
    first = register(0.06)
    assert decide(images, "into=prod")["verdict"] == "promoted"
    assert decide(images, "into=prod")["reason"] == f"version {first} is the champion already"
    assert (alias("champion"), alias("champion", "prod")) == (None, "1")
    register(0.03)
    assert decide(images, "into=prod")["verdict"] == "promoted"
    assert (alias("champion", "prod"), alias("previous", "prod")) == ("2", "1")
    tags = tracking.get_alias(TASK, "champion", "prod").tags
    assert tags["dataset"] == "denoise/v000001"
    assert tags["promotion.prod.verdict"] == "promoted"
    served = fetch("models:/kgt-denoise-prod@champion").read_bytes()
    assert served == fetch("models:/kgt-denoise@challenger").read_bytes()
    decide("rollback=true", "into=prod")
    assert alias("champion", "prod") == "1"
    assert "was rolled back" in decide(images, "into=prod")["reason"]


def test_a_copy_whose_original_was_deleted_can_be_rolled_back(images: str, register: Register) -> None:
    for shift in (0.06, 0.03):
        register(shift)
        decide(images, "into=prod")
    tracking.store_client().delete_model_version("kgt-denoise", "2")
    assert decide("rollback=true", "into=prod")["verdict"] == "rolled back"
    assert alias("champion", "prod") == "1"


def test_a_model_that_was_made_anew_is_not_taken_for_copies_of_the_old_one(images: str, register: Register) -> None:
    """MLflow gives it the same numbers."""
    register(0.06, tags={"weights_sha256": "old"})
    assert decide(images, "into=prod")["verdict"] == "promoted"
    tracking.store_client().delete_registered_model("kgt-denoise")
    register(0.03, tags={"weights_sha256": "new"})
    assert decide(images, "into=prod")["verdict"] == "promoted"
    assert (alias("champion", "prod"), alias("previous", "prod")) == ("2", "1")
    assert tracking.get_alias(TASK, "champion", "prod").tags["weights_sha256"] == "new"


def test_what_is_decided_about_one_model_is_not_about_the_other(images: str, register: Register) -> None:
    """Two timers may ask for new challengers alone; what one rolls back is still the other's."""
    version = register(0.06)
    assert decide(images, "only_new=true")["verdict"] == "promoted"
    assert decide(images, "only_new=true", "into=prod")["verdict"] == "promoted"
    register(0.03)
    decide(images, "only_new=true", "into=prod")
    decide("rollback=true", "into=prod")
    assert (alias("champion"), alias("champion", "prod")) == (version, "1")
    assert decide(images, "only_new=true")["verdict"] == "promoted"
