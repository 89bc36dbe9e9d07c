"""Names in certificates: each identity has one URI, each URI at most one identity."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstudy.errors import RefusedError
from fedstudy.identity import Identity, Role

DOMAINS = st.from_regex(r"[a-z0-9.\-]{1,40}", fullmatch=True)
UIDS = st.from_regex(r"[A-Za-z0-9\-]{1,63}", fullmatch=True)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?", fullmatch=True)

IDENTITIES = st.one_of(
    st.builds(Identity, DOMAINS, st.just("study"), UIDS, st.sampled_from([Role.SITE, Role.INVITATION]), NAMES),
    st.builds(Identity, DOMAINS, st.just("study"), UIDS, st.sampled_from([Role.AGGREGATOR, Role.OPERATOR])),
    st.builds(
        Identity,
        DOMAINS,
        st.just("participant"),
        UIDS,
        st.sampled_from([Role.AGENT, Role.TRAINER, Role.OPERATOR]),
    ),
)  # fmt: skip


@settings(deadline=None)
@given(IDENTITIES)
def test_an_identity_is_read_back_from_its_uri(identity: Identity) -> None:
    assert Identity.parse(identity.uri()) == identity


@settings(deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                [
                    "spiffe://",
                    "hub",
                    "/",
                    "study",
                    "participant",
                    "u1",
                    "site",
                    "invitation",
                    "agent",
                    "operator",
                    "a",
                    "..",
                    "%2f",
                    "\n",
                    "",
                ]
            ),
            max_size=12,
        ).map("".join),
    )
)
def test_a_uri_that_is_read_is_the_one_that_is_written(uri: str) -> None:
    try:
        identity = Identity.parse(uri)
    except RefusedError:
        return
    assert identity.uri() == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://hub/study/u1/site",
        "spiffe://hub/study/u1/site/",
        "spiffe://hub/study/u1/aggregator/a",
        "spiffe://hub/study/u1/trainer",
        "spiffe://hub/participant/u1/site/a",
        "spiffe://hub/participant/u1/aggregator",
        "spiffe://hub/study/u1/site/a/b",
        "spiffe://hub/study/u1/site/A",
        "spiffe://hub/study/u1/site/a\n",
        "spiffe://HUB/study/u1/site/a",
        "https://hub/study/u1/site/a",
        "spiffe://hub/study/u1/site/" + "a" * 64,
    ],
)
def test_a_uri_of_no_known_form_is_refused(uri: str) -> None:
    with pytest.raises(RefusedError, match="no identity of fedstudy"):
        Identity.parse(uri)
