"""A round of regeneration: the epochs that it set out to make, kept in the store until it has ended.

A round that was killed is finished by the next command with the same settings and sources: tasks that it had published
are not made once more, so the end is that of a round that was not killed.
"""

import json
from collections.abc import Mapping

from kgt.errors import UserError
from pipelines.plan import fingerprint
from pipelines.storage import Malformed, Missing, Store, read_json


def begin(store: Store, identities: Mapping[str, str], fraction: float, live: Mapping[str, int]) -> dict[str, int]:
    """The epoch that each task is to get: those of an unfinished round of these `identities`, or the ones after `live`.

    Raises UserError if what is noted of a round is damaged.
    """
    key = _key(identities, fraction)
    try:
        noted = read_json(store, key)
        epochs = {task: int(noted[task]) for task in identities}
        if any(live[task] < epochs[task] for task in epochs):
            return epochs
    except Missing:
        pass
    except UserError:
        raise
    except (Malformed, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{store.url}/{key} is damaged: delete it, a round that was killed is then begun anew"
        ) from error
    epochs = {task: epoch + 1 for task, epoch in live.items()}
    store.put(key, json.dumps(epochs, sort_keys=True).encode())
    return epochs


def end(store: Store, identities: Mapping[str, str], fraction: float) -> None:
    """Nothing is left to finish."""
    store.delete(_key(identities, fraction))


def _key(identities: Mapping[str, str], fraction: float) -> str:
    return f"rounds/{fingerprint([dict(identities), fraction])}.json"
