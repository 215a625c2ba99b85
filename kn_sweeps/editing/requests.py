"""What methods that write at the subject are asked: a prompt in many contexts, and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kn_sweeps.cases import Case, edit_probe
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded, UnscorableError


@dataclass(frozen=True)
class Request:
    """One edit: what should be answered, and where.

    Attributes:
        case: Its case's id, for messages.
        prompts: The prompt in every context, the bare one first, with the new answer.
        essence: The prompt whose next token must not change; None for none.
    """

    case: str
    prompts: tuple[Encoded, ...]
    essence: Encoded | None

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        case: Case,
        contexts: Sequence[str],
        *,
        subject: bool = True,
        essence: bool = True,
        ended: bool = False,
    ) -> Request:
        """The request of a case.

        Args:
            lm: The model.
            case: What to change; its edit query needs a subject.
            contexts: Texts to put before the prompt, the empty one first.
            subject: Whether it is edited at its subject, so that it needs one.
            essence: Whether its essence counts; else it may be one that cannot be asked.
            ended: Whether the answer has the token that ends a text.

        Raises:
            ValueError: If there is no subject, or the bare prompt or the essence cannot be put
                together.
        """
        probe = edit_probe(case)
        if subject and probe.query.subject is None:
            raise ValueError(f"case {case.id} has no subject; this method edits at the subject")
        prompts = []
        for context in contexts:
            try:
                prompt = lm.encode(probe.query.after(context), probe.new)
                prompts.append(lm.ended(prompt) if ended else prompt)
            except UnscorableError:
                # A sampled context may be too long or end in half a word.
                if not context:
                    raise
        return cls(case.id, tuple(prompts), _essence(lm, case) if essence else None)


def requests_of(
    lm: LanguageModel,
    cases: Sequence[Case],
    contexts: Sequence[str],
    *,
    subject: bool = True,
    essence: bool = True,
    ended: bool = False,
) -> tuple[list[Request], dict[str, str]]:
    """The requests of some cases, and why there is none for the others; see `Request.of`."""
    requests: list[Request] = []
    failed: dict[str, str] = {}
    for case in cases:
        try:
            requests.append(
                Request.of(lm, case, contexts, subject=subject, essence=essence, ended=ended)
            )
        except ValueError as error:
            failed[case.id] = str(error)
    return requests, failed


def _essence(lm: LanguageModel, case: Case) -> Encoded | None:
    """The essence prompt; None where there is none.

    What the case's answers are does not matter to it.

    Raises:
        UnscorableError: If it cannot be tokenised: the divergence would be missing.
    """
    return None if case.essence is None else lm.encode_open(case.essence)
