"""Addresses with a password are refused without being repeated; all others are taken as they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.addresses import without_password
from kgt.errors import UserError
from kgt.home import tracking_uri

WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)


@given(scheme=WORDS, user=WORDS, password=st.text(st.sampled_from("aB1%:@$!-/?#"), min_size=1), host=WORDS)
def test_a_password_is_refused_and_not_repeated(scheme: str, user: str, password: str, host: str) -> None:
    hidden = f"hidden{password}"
    with pytest.raises(UserError, match=r"^STORE holds a password") as raised:
        without_password(f"store={scheme}://{user}:{hidden}@{host}/folder", "STORE", "put it elsewhere")
    assert hidden not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://mlflow@postgres:5432/mlflow",
        "models:/kgt-denoise@champion",
        "http://host:5000",
        "http://host:5000/a:b@c",
        "http://host/x?key=1&name=token",
        "s3://bucket/a:b@c",
        "file:///data/a:b@c",
        "https://[::1]:5000/x",
        "",
    ],
)
def test_other_addresses_are_taken(address: str) -> None:
    assert without_password(address, "A", "") == address


@pytest.mark.parametrize("query", ["password=hidden", "user=a&sslpassword=hidden", "X-Amz-Security-Token=hidden"])
def test_nor_may_a_query_hold_one(query: str) -> None:
    with pytest.raises(UserError, match="STORE holds a password") as raised:
        without_password(f"postgresql://db/mlflow?{query}", "STORE", "")
    assert "hidden" not in str(raised.value)


def test_the_registry_s_address_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hidden@mlflow.example.com")
    with pytest.raises(UserError, match=r"set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as raised:
        tracking_uri()
    assert "hidden" not in str(raised.value)
