"""A prompt asked through a chat template is read as transformers tokenises the conversation."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from kn_sweeps.cases import Query
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} is {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}is a\n{% endif %}"
)
QUERY = Query("The capital of France is ", ".", (15, 21))


@pytest.fixture
def chatting(lm_of) -> LanguageModel:  # noqa: ANN001
    plain = lm_of("llama")
    tokenizer = deepcopy(plain.tokenizer)
    tokenizer.chat_template = TEMPLATE
    tokenizer.bos_token = tokenizer.bos_token or "[CLS]"
    return LanguageModel(plain.model, tokenizer, name="chatting", chat=True)


def test_the_prompt_is_the_conversation_and_the_subject_is_found_inside(
    chatting: LanguageModel,
) -> None:
    message = [{"role": "user", "content": "The capital of France is"}]
    expected = chatting.tokenizer.apply_chat_template(
        message, add_generation_prompt=True, return_dict=False
    )
    for encoded in (chatting.encode(QUERY, "Paris"), chatting.encode_open(QUERY)):
        assert list(encoded.prompt_ids) == list(expected)
        assert encoded.subject is not None
        subject = encoded.ids[slice(*encoded.subject)]
        assert chatting.tokenizer.decode(subject).strip() == "France"
    assert (
        chatting.encode(QUERY, "Paris").target_ids
        == chatting.encode(Query("is "), "Paris").target_ids
    )
    sentence = chatting.encode(Query(""), "Ann sees this cat .")
    chatting.chat = False
    assert chatting.encode(Query(""), "Ann sees this cat .") == sentence
    plain = chatting.encode(QUERY, "Paris")
    assert list(plain.prompt_ids) != list(expected)
    chatting.chat = True
    (reply,) = ask(chatting, [Question(QUERY, "Paris", "Rome")])
    with torch.no_grad():
        logits = chatting.model(torch.tensor([list(expected)])).logits[0, -1]
    gold = chatting.encode(QUERY, "Paris").target_ids[0]
    assert reply.old.log_probs[0] == pytest.approx(float(logits.log_softmax(-1)[gold]), abs=1e-6)


def test_what_cannot_chat_is_refused(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    with pytest.raises(ValueError, match="mine: its tokenizer has no chat template, so model.chat"):
        LanguageModel(lm.model, lm.tokenizer, name="mine", chat=True)
    tokenizer = deepcopy(lm.tokenizer)
    tokenizer.chat_template = "{{ messages[0].content | upper }}"
    with pytest.raises(ValueError, match="mine: its chat template does not have a user's message"):
        LanguageModel(lm.model, tokenizer, name="mine", chat=True)
    masked = lm_of("bert")
    with pytest.raises(ValueError, match="it does not chat; use model.chat=false"):
        LanguageModel(masked.model, masked.tokenizer, chat=True)
