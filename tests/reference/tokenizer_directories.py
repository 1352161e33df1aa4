"""Compares the engine with transformers' AutoTokenizer on whole directories: vocabulary files with
what tokenizer_config.json says about them.

    python tokenizer_directories.py --probe BUILD/tests/tokenizer/tokenizer_probe \
        --shared SHARED_DATA [--strings 10000] [--seed 1] [--only TEXT]

Written for transformers 5, whose reading of the configs docs/tokenize.md follows.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoTokenizer, logging  # noqa: E402

import tokenizer_cases as cases  # noqa: E402
from tokenizer_differential import Report, engine_decode, engine_encode  # noqa: E402
from tokenizer_strings import Strings, differing_characters  # noqa: E402


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False, "special": True, **flags}


def directories(shared):
    """Yields (name, {file name: path or JSON})."""
    data = shared / "tokenizers"
    gpt2 = {"vocab.json": data / "gpt2/encoder.json", "merges.txt": data / "gpt2/vocab.bpe"}
    for changes in ({}, {"add_prefix_space": True}, {"add_bos_token": True},
                    {"add_bos_token": False, "clean_up_tokenization_spaces": True},
                    {"add_eos_token": True, "bos_token": "<|endoftext|>"},
                    {"added_tokens_decoder": {
                        "50256": token("<|endoftext|>", rstrip=True),
                        "50257": token("<pad>"), "50258": token("wordy", special=False,
                                                                single_word=True)}}):
        yield f"GPT-2 {changes}", {
            **gpt2, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", **changes}}
    added = json.loads((data / "qwen2.5/added_tokens.json").read_text())
    qwen = {"vocab.json": data / "qwen2.5/vocab.json", "merges.txt": data / "qwen2.5/merges.txt"}
    decoder = {str(i): token(t, special=not t.startswith(("<tool", "</tool", "<|fim", "<|repo",
                                                          "<|file"))) for t, i in added.items()}
    for changes in ({}, {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>"}):
        yield f"Qwen2.5 {changes}", {**qwen, "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder, **changes}}
    roberta = {"vocab.json": data / "roberta/vocab.json", "merges.txt": data / "gpt2/vocab.bpe"}
    for changes in ({}, {"add_prefix_space": True}):
        yield f"RoBERTa {changes}", {**roberta, "tokenizer_config.json": {
            "tokenizer_class": "RobertaTokenizer",
            "added_tokens_decoder": {"50264": token("<mask>", lstrip=True)}, **changes}}
    for changes in ({}, {"clean_up_tokenization_spaces": True}, {"legacy": False}, {"legacy": True},
                    {"extra_ids": 7}):
        yield f"T5 {changes}", {
            "spiece.model": data / "t5/spiece.model",
            "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", **changes}}
    for changes in ({"legacy": False}, {"legacy": True}):
        for around in ({}, {"add_bos_token": True}, {"add_bos_token": False},
                       {"add_bos_token": True, "add_eos_token": True}):
            if not around:
                continue  # transformers 4 has BOS by default, 5 has not
            yield f"Llama 2 {changes} {around}", {
                "tokenizer.model": data / "llama2/tokenizer.model",
                "tokenizer_config.json": {
                    "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                    **changes, **around}}
    yield "Gemma-like", {
        "tokenizer.model": data / "gemma/gemma_like_synthetic.model",
        "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}}
    # A tokenizer.json, and configs that change what it says.
    document = json.loads((data / "hf_json/torchtune_llama3style_tokenizer.json").read_text())
    document["added_tokens"] = [
        {"id": 2000, **token("<b>")}, {"id": 2001, **token("</s>")},
        {"id": 2002, **token("<mask>", lstrip=True)}, {"id": 2003, **token("<tool>", special=False)}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<b>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<b>": {"id": "<b>", "ids": [2000], "tokens": ["<b>"]}}}
    for changes in ({}, {"add_bos_token": False}, {"add_eos_token": True}, {"eos_token": "<tool>"},
                    {"mask_token": "<mask>"}, {"eos_token": "the"},
                    {"added_tokens_decoder": {"2001": token("</s>", lstrip=True, rstrip=True)}},
                    {"added_tokens_decoder": {"2002": token("<mask>")}},
                    {"added_tokens_decoder": {"2003": token("<tool>", lstrip=True)}},
                    {"clean_up_tokenization_spaces": True}):
        yield f"tokenizer.json {changes}", {
            "tokenizer.json": document,
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **changes}}
    for changes in ({}, {"clean_up_tokenization_spaces": True}):
        unigram = cases.converted(data / "t5/spiece.model")
        yield f"Unigram tokenizer.json {changes}", {
            "tokenizer.json": json.loads(unigram.to_str()),
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **changes}}


def plain(text):
    """SentencePiece models are turned into other tokenizers by transformers 5, which differ from
    sentencepiece in charsmaps, ties, runs of spaces, spaces behind special tokens and broken bytes.
    The engine does not: what is compared here are the special tokens in and around a text."""
    text = "".join(c for c in text if " " <= c <= "~").replace("<0x", "<x")
    return re.sub(r"(.)\1+", r"\1", re.sub("> +", ">", text)).strip()


def compare(name, folder, probe, texts, rng):
    reference = AutoTokenizer.from_pretrained(folder)
    report = Report(name)
    if list(pathlib.Path(folder).glob("*.model")):
        texts = [t for t in map(plain, texts) if t]
    for flags, special in (((), True), (("--no-special",), False)):
        expected = [ids for at in range(0, len(texts), 2000) for ids in reference(
            texts[at : at + 2000], add_special_tokens=special)["input_ids"]]
        for text, want, got in zip(texts, expected, engine_encode(probe, folder, texts, *flags)):
            report.encoded += 1
            report.check(f"encode {flags} {text!r}", want, got)
    size = len(reference)
    lists = expected + [
        [rng.randrange(size) for _ in range(rng.randint(1, 12))] for _ in texts[::2]]
    if list(pathlib.Path(folder).glob("*.model")):
        lists = [ids for ids in expected if reference.unk_token_id not in ids]
    for flags, skip in (((), False), (("--skip-special",), True)):
        for ids, got in zip(lists, engine_decode(probe, folder, lists, *flags)):
            report.decoded += 1
            want = reference.decode(ids, skip_special_tokens=skip)
            report.check(f"decode {flags} {ids}", want, got)
    return report.finish()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True)
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    logging.set_verbosity_error()
    rng = random.Random(options.seed)
    corpus = (options.shared / "datasets/tinyshakespeare/input.txt").read_text()[:300000]
    strings = Strings(rng, corpus, differing_characters())
    texts = [strings.text() for _ in range(options.strings)]
    differences = 0
    for name, files in directories(options.shared):
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for file, contents in files.items():
                path = pathlib.Path(folder) / file
                if isinstance(contents, pathlib.Path):
                    shutil.copy(contents, path)
                else:
                    path.write_text(json.dumps(contents))
            differences += compare(name, folder, options.probe, texts, rng).differences
    print(f"{differences} differences in all")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
