"""A tiny Llama with random weights and a tokenizer of whole words, made on the spot.

python -m tests.server.tiny_model FOLDER
"""

from __future__ import annotations

import sys

from autotune.measure.load.http_client import NOUNS


def make_tiny_model(folder: str, hidden: int = 64, layers: int = 2) -> None:
    """Write one that `transformers serve` can load.

    Args:
        folder: where to.
        hidden: width of the model.
        layers: of it.
    """
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *NOUNS.split()]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    # Answers have the length that is asked for: nothing ends them before.
    model.generation_config.eos_token_id = None
    # Special tokens have no text: an answer of nothing else would be none.
    model.generation_config.suppress_tokens = [0, 1, 2]
    model.save_pretrained(folder)


if __name__ == "__main__":
    make_tiny_model(sys.argv[1])
