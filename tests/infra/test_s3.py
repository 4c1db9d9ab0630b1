"""The bucket's rules: of the form that S3 takes, and no right more than is needed."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.manifests import INFRA

S3 = INFRA / "s3"
BUCKET = "facepipe-example"
POLICIES = ("job-policy", "erasure-policy", "bucket-policy")


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((S3 / f"{name}.json").read_text())
    return document


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _allows(policy: dict[str, Any], action: str, key: str | None) -> bool:
    """Tell whether a policy allows an action on a key; for ListBucket the key is the prefix."""
    on_bucket = action.startswith("s3:ListBucket")
    arn = f"arn:aws:s3:::{BUCKET}" + ("" if on_bucket else f"/{key}")
    return any(
        statement["Effect"] == "Allow"
        and any(fnmatch.fnmatchcase(action, a) for a in _listed(statement["Action"]))
        and any(fnmatch.fnmatchcase(arn, r) for r in _listed(statement["Resource"]))
        and (not on_bucket or _prefix_holds(statement.get("Condition", {}), key))
        for statement in policy["Statement"]
    )


def _prefix_holds(condition: dict[str, Any], prefix: str | None) -> bool:
    for operator, test in condition.items():
        patterns = test["s3:prefix"]
        if prefix is None:
            return bool(operator.endswith("IfExists"))
        return any(fnmatch.fnmatchcase(prefix, pattern) for pattern in patterns)
    return True


@pytest.mark.parametrize(
    ("action", "key", "allowed"),
    [
        ("s3:GetObject", "raw/2026/x.jpg", True),
        ("s3:PutObject", "raw/2026/x.jpg", False),
        ("s3:DeleteObject", "raw/2026/x.jpg", False),
        ("s3:GetObject", "datasets/nightly/_lease.json", True),
        ("s3:PutObject", "datasets/nightly/_lease.json", True),
        ("s3:DeleteObject", "datasets/nightly/faces/s.parquet", True),
        ("s3:AbortMultipartUpload", "datasets/nightly/faces/s.parquet", True),
        ("s3:PutObject", "galleries/people/index.faiss", True),
        ("s3:PutObject", "logs/ray/x", False),
        ("s3:GetObject", "other/x", False),
        ("s3:DeleteObjectVersion", "datasets/nightly/faces/s.parquet", False),
        ("s3:PutBucketPolicy", "", False),
        ("s3:PutObjectAcl", "datasets/nightly/faces/s.parquet", False),
        ("s3:ListBucket", "raw/2026/", True),
        ("s3:ListBucket", "datasets/nightly/", True),
        # A request for an absent key comes without a prefix, and is answered 403 and not 404
        # to who may not list.
        ("s3:ListBucket", None, True),
        ("s3:ListBucket", "", False),
        ("s3:ListBucket", "logs/", False),
    ],
)
def test_the_job_may_do_its_work_and_no_more(action: str, key: str | None, allowed: bool) -> None:
    assert _allows(_read("job-policy"), action, key) is allowed


@pytest.mark.parametrize(
    ("action", "key", "allowed"),
    [
        ("s3:ListBucketVersions", "datasets/nightly/", True),
        ("s3:DeleteObjectVersion", "raw/2026/x.jpg", True),
        ("s3:DeleteObjectVersion", "logs/x", False),
        ("s3:GetObject", "raw/2026/x.jpg", False),
        ("s3:PutObject", "datasets/nightly/x", False),
    ],
)
def test_who_erases_sees_nothing(action: str, key: str, allowed: bool) -> None:
    assert _allows(_read("erasure-policy"), action, key) is allowed


@pytest.mark.parametrize("name", ["job-policy", "erasure-policy"])
def test_no_right_is_a_wildcard(name: str) -> None:
    for statement in _read(name)["Statement"]:
        assert not any("*" in action for action in _listed(statement["Action"]))
        assert "*" not in _listed(statement["Resource"])


def test_only_tls_comes_in() -> None:
    (statement,) = _read("bucket-policy")["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]


def test_lifecycle_removes_what_nobody_sees() -> None:
    rules = {rule["ID"]: rule for rule in _read("lifecycle")["Rules"]}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())
    parts = rules["parts-of-broken-uploads"]
    assert parts["Filter"] == {"Prefix": ""}
    assert parts["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    with_versions = {r["Filter"]["Prefix"]: r for r in rules.values() if r is not parts}
    assert set(with_versions) == {"raw/", "datasets/", "galleries/", "logs/"}
    for prefix, rule in with_versions.items():
        # A face that was deleted is in an old version until this many days are over.
        assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] <= 30
        # No current object goes by itself, except for a log.
        assert ("Days" in rule["Expiration"]) == (prefix == "logs/")


@pytest.fixture
def made_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a client, with the bucket there, of a server that keeps what it is told."""
    moto = pytest.importorskip("moto", reason="moto[server], of [dev], is missing")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        import boto3  # type: ignore[import-untyped]  # ships no annotations

        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def test_s3_takes_them(made_bucket: Any) -> None:
    """boto3 checks the form against S3's own description of its requests."""
    made_bucket.put_bucket_lifecycle_configuration(
        Bucket=BUCKET, LifecycleConfiguration=_read("lifecycle")
    )
    made_bucket.put_bucket_encryption(
        Bucket=BUCKET, ServerSideEncryptionConfiguration=_read("encryption")
    )
    made_bucket.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(_read("bucket-policy")))
    kept = made_bucket.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert [rule["ID"] for rule in kept] == [rule["ID"] for rule in _read("lifecycle")["Rules"]]


def test_s3_refuses_a_rule_that_it_does_not_know(made_bucket: Any) -> None:
    from botocore.exceptions import ParamValidationError  # type: ignore[import-untyped]

    rules = _read("lifecycle")
    rules["Rules"][0]["AbortAfterDays"] = 1
    with pytest.raises(ParamValidationError):
        made_bucket.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration=rules)


def _setup(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1"}
    return subprocess.run(
        [S3 / "setup.sh", *words], env=environment, capture_output=True, text=True
    )


def test_setup_fills_in_the_bucket_and_the_key() -> None:
    ran = _setup("photos-of-ours", "alias/ours")
    assert ran.returncode == 0, ran.stderr
    assert "facepipe-example" not in ran.stdout
    calls = [line for line in ran.stdout.splitlines() if line.startswith("aws ")]
    assert [shlex.split(call)[2] for call in calls] == [
        "put-public-access-block",
        "put-bucket-versioning",
        "put-bucket-encryption",
        "put-bucket-lifecycle-configuration",
        "put-bucket-policy",
    ]
    assert all(" photos-of-ours " in call for call in calls)
    for name in ("job-policy", "erasure-policy"):
        printed = ran.stdout.partition(f"# {name}\n")[2].partition("\n# ")[0]
        assert json.loads(printed)["Version"] == "2012-10-17"


@pytest.mark.parametrize("words", [(), ("bucket",)])
def test_setup_needs_the_bucket_and_the_key(words: tuple[str, ...]) -> None:
    ran = _setup(*words)
    assert ran.returncode != 0
    assert ran.stdout == ""


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_in_the_language_of_2012(name: str) -> None:
    assert _read(name)["Version"] == "2012-10-17"
    assert all(statement["Sid"].isalnum() for statement in _read(name)["Statement"])
