"""`vfsd tag`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import Facts, print_json, print_json_list, print_line, print_table, short, shown_time
from vfsd.daemon.session import session
from vfsd.daemon.specs import SPEC, TEXT, Spec, commit_at, no_path
from vfsd.model.commit import Tag
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_text
from vfsd.repo.repository import now_ns


@click.group()
def tag() -> None:
    """Create, list and delete tags.

    A tag is a name for one commit, good in every branch of its repo: texts/main@v1 is what tag v1 names.

    \b
    Example:
      vfsd tag create texts/main v1
    """


@tag.command("create", cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="REPO/BRANCH[@REV]")
@click.argument("name", metavar="NAME")
@click.option("-m", "--message", type=TEXT, default="", help="What the tag is for.")
@click.pass_obj
def create(invocation: Invocation, spec: Spec, name: str, message: str) -> None:
    """Give a commit a name: the head of a branch, or the commit that a rev names.

    A tag never moves. To give its name to another commit, delete it first.

    \b
    Examples:
      vfsd tag create texts/main v1
      vfsd tag create texts/main@~3 before-cleanup -m "as it was"
    """
    where = no_path(spec)
    with session(invocation) as opened:
        repository = opened.repository
        commit = commit_at(repository, where).id
        repository.create_tag(where.repo, name, commit, now_ns(), message)
        if invocation.json:
            print_json(_facts(where.repo, name, repository.refs.tag(where.repo, name)))
        else:
            print_line(f"tagged {short(commit)} as {where.repo}/{where.branch}@{name}")


@tag.command("list", cls=FactsCommand)
@click.argument("repo", metavar="[REPO]", required=False)
@click.pass_obj
def list_(invocation: Invocation, repo: str | None) -> None:
    """List the tags of a repo, or of all, newest first.

    \b
    Example:
      vfsd tag list texts
    """
    with session(invocation) as opened:
        refs = opened.repository.refs
        if repo is not None:
            refs.repo(repo)
        repos = list(refs.repos()) if repo is None else [repo]
        found = [(owner, name, value) for owner in repos for name, value in refs.tags(owner)]
        found.sort(key=lambda item: (-item[2].created, item[0], item[1]))
        if invocation.json:
            print_json_list(_facts(*item) for item in found)
        else:
            rows = (
                (owner, name, short(value.commit), shown_time(value.created), shown_text(value.message))
                for owner, name, value in found
            )
            print_table(("repo", "tag", "commit", "created", "message"), rows)


@tag.command("delete", cls=StoreCommand)
@click.argument("repo", metavar="REPO")
@click.argument("name", metavar="NAME")
@click.pass_obj
def delete(invocation: Invocation, repo: str, name: str) -> None:
    """Delete a tag; the commit stays as long as anything else leads to it.

    \b
    Example:
      vfsd tag delete texts v1
    """
    with session(invocation) as opened:
        opened.repository.refs.repo(repo)
        opened.repository.refs.delete_tag(repo, name)


def _facts(repo: str, name: str, value: Tag) -> Facts:
    return {
        "id": name,
        "repo": repo,
        "commit": value.commit,
        "created": rfc3339(value.created),
        "message": value.message,
    }
