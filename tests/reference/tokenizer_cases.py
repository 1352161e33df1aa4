"""Tokenizers of every kind, made with Hugging Face tokenizers and sentencepiece, to be compared."""

import copy
import io
import json
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", LLAMA3]

BEHAVIORS = ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
EVERY_BYTE = list(range(256))


def text_lines(corpus):
    return corpus.replace("\n", "\n\0").rstrip("\0").split("\0")


def byte_level_model(vocab_size, corpus, pre_tokenizer, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text_lines(corpus), trainer)
    return tokenizer


def split_then_bytes(*patterns, behavior="isolated"):
    steps = [pre_tokenizers.Split(Regex(p), behavior) for p in patterns]
    return pre_tokenizers.Sequence(
        steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def character_model(corpus, vocab_size, byte_tokens, **options):
    """BPE over characters with "▁" for spaces; `byte_tokens` of the 256 <0xXX> exist."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in byte_tokens],
        max_token_length=8,
    )
    tokenizer.train_from_iterator(text_lines(corpus), trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]  # bytes are plain vocabulary
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def add_flagged_tokens(tokenizer):
    # No special token is normalized here: with a normalizer that changes it, Hugging Face no longer
    # recognises it in decode(skip_special_tokens=True); the engine does.
    tokenizer.add_special_tokens(
        [
            AddedToken("<|im_start|>", special=True),
            AddedToken("[MASK]", lstrip=True, special=True),
            AddedToken("<tool>", rstrip=True, special=True),
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True),
            AddedToken("é", normalized=True),
            AddedToken("<|im", lstrip=True, rstrip=True, normalized=False),
            AddedToken("aaaa", normalized=False),
            AddedToken("  ", normalized=True),
        ]
    )
    return tokenizer


def byte_level_cases(corpus):
    def bpe(*args, **kwargs):
        return byte_level_model(2000, corpus[:400000], *args, **kwargs)

    plain_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    yield "byte-level, GPT-2", bpe(plain_bytes)
    yield "byte-level, prefix space", bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))
    yield "llama3 split, ignore_merges", bpe(split_then_bytes(LLAMA3), ignore_merges=True)
    yield "qwen2 split, NFC", bpe(split_then_bytes(QWEN2), normalizers.NFC())
    yield "NFKC", bpe(plain_bytes, normalizers.NFKC())
    yield "NFKD", bpe(plain_bytes, normalizers.NFKD())
    yield "NFD, strip", bpe(plain_bytes, normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFD()]))
    yield "lowercase", bpe(plain_bytes, normalizers.Lowercase())
    yield "NFD, strip accents, lowercase", bpe(plain_bytes, normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]))
    yield "Nmt, replace", bpe(plain_bytes, normalizers.Sequence(
        [normalizers.Nmt(), normalizers.Replace(Regex(r"\s{2,}"), " "),
         normalizers.Replace("''", '"')]))
    for flags in ((True, True, None, True), (False, True, True, False), (True, False, False, True)):
        yield f"BertNormalizer {flags}", bpe(plain_bytes, normalizers.BertNormalizer(*flags))
    yield "o200k split", bpe(split_then_bytes(O200K))
    yield "cl100k split", bpe(split_then_bytes(CL100K))
    yield "three splits", bpe(split_then_bytes(*DEEPSEEK))
    for each in (True, False):
        yield f"digits {each}", bpe(pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=each), plain_bytes]))
    yield "\\w, \\d, \\s, \\h classes", bpe(split_then_bytes(r"[^\S\n]*\w+|\D\d|\s|\H"))
    yield "scripts", bpe(split_then_bytes(r"\p{Han}+|\p{Hiragana}+|\p{Cyrillic}+|^a|b$"))
    for behavior in BEHAVIORS:
        yield f"split {behavior}", bpe(split_then_bytes(r"\s+|\p{P}", behavior=behavior))
        yield f"split {behavior}, inverted", bpe(pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}"), behavior, invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
        yield f"punctuation {behavior}", bpe(pre_tokenizers.Sequence(
            [pre_tokenizers.Punctuation(behavior), plain_bytes]))
    for name, step in (
        ("whitespace", pre_tokenizers.Whitespace()),
        ("whitespace split", pre_tokenizers.WhitespaceSplit()),
        ("Bert pre-tokenizer", pre_tokenizers.BertPreTokenizer()),
        ("delimiter", pre_tokenizers.CharDelimiterSplit("|")),
        ("fixed length", pre_tokenizers.FixedLength(3)),
    ):
        yield name, bpe(pre_tokenizers.Sequence([step, plain_bytes]))
    yield "steps behind ByteLevel", bpe(pre_tokenizers.Sequence(
        [plain_bytes, pre_tokenizers.Punctuation("isolated"), plain_bytes]))
    yield "ByteLevel normalizer", bpe(
        pre_tokenizers.Split(Regex(r"\p{L}+|Ġ+"), "isolated"), normalizers.ByteLevel())
    yield "added tokens, byte-level", add_flagged_tokens(bpe(plain_bytes))
    yield "added tokens, NFC", add_flagged_tokens(bpe(split_then_bytes(QWEN2), normalizers.NFC()))


def character_cases(corpus):
    few = corpus[:200000]
    yield "byte fallback", character_model(few, 1500, EVERY_BYTE, byte_fallback=True, fuse_unk=True)
    yield "byte fallback, added tokens", add_flagged_tokens(
        character_model(few, 1500, EVERY_BYTE, byte_fallback=True, fuse_unk=True))
    some_bytes = [b for b in EVERY_BYTE if b % 3]
    for fuse in (False, True):
        yield f"byte fallback with gaps, fuse_unk={fuse}", character_model(
            few, 1200, some_bytes, byte_fallback=True, fuse_unk=fuse)
        yield f"no byte fallback, fuse_unk={fuse}", character_model(few, 1200, [], fuse_unk=fuse)
    for scheme in ("always", "first", "never"):
        metaspace = character_model(few, 1000, EVERY_BYTE, byte_fallback=True)
        metaspace.normalizer = None
        metaspace.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=scheme != "first")
        metaspace.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace("▁", scheme)])
        yield f"metaspace {scheme}", add_flagged_tokens(metaspace)
    gpt = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    gpt.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    gpt.decoder = decoders.BPEDecoder()
    gpt.train_from_iterator(text_lines(few), trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False))
    yield "end_of_word_suffix", gpt
    clip = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    clip.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    clip.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    clip.decoder = decoders.Sequence([
        decoders.Replace(Regex("(?i:the)</w>"), "The</w>"), decoders.ByteLevel()])
    clip.train_from_iterator(text_lines(few), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    yield "CLIP", clip
    subwords = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    subwords.pre_tokenizer = pre_tokenizers.Whitespace()
    subwords.decoder = decoders.WordPiece(cleanup=False)
    subwords.train_from_iterator(text_lines(few), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>"], continuing_subword_prefix="##",
        show_progress=False))
    yield "continuing_subword_prefix", subwords
    bert = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    bert.normalizer = normalizers.BertNormalizer()
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert.decoder = decoders.WordPiece()
    bert.train_from_iterator(text_lines(few), trainers.WordPieceTrainer(
        vocab_size=2000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False))
    bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    yield "WordPiece", bert
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(text_lines(few), trainers.WordLevelTrainer(
        vocab_size=2000, special_tokens=["<unk>"], show_progress=False))
    yield "WordLevel", words


def unigram_model(corpus, vocab_size, normalizer=None, pre_tokenizer=None, byte_fallback=False):
    tokenizer = Tokenizer(models.Unigram())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(text_lines(corpus), trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)])
    if not byte_fallback:
        return tokenizer
    document = json.loads(tokenizer.to_str())
    document["model"]["byte_fallback"] = True
    document["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in EVERY_BYTE]
    document["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, document["decoder"], {"type": "Fuse"}]}
    return Tokenizer.from_str(json.dumps(document))


def unigram_cases(corpus, charsmap):
    few = corpus[:200000]
    yield "Unigram", unigram_model(few, 2000)
    yield "Unigram, NFKC, lowercase", unigram_model(few, 1500, normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()]))
    yield "Unigram, byte fallback", unigram_model(few, 1500, byte_fallback=True)
    yield "Unigram, added tokens", add_flagged_tokens(unigram_model(few, 1500))
    yield "Unigram, whole text", unigram_model(
        few, 1500, pre_tokenizer=pre_tokenizers.Metaspace(split=False))
    yield "Unigram, no \"▁\"", unigram_model(few, 1500, pre_tokenizer=pre_tokenizers.Whitespace())
    yield "Unigram, ByteLevel", unigram_model(
        few, 1500, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False))
    if charsmap:
        yield "Unigram, charsmap", unigram_model(few, 1500, normalizers.Sequence(
            [normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")]))
        yield "Unigram, charsmap, whitespace split", unigram_model(
            few, 1500, normalizers.Precompiled(charsmap), pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]))


def precompiled_charsmap(model_file):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model_file.read_bytes())
    return proto.normalizer_spec.precompiled_charsmap


def converted(model_file, **settings):
    """The fast tokenizer that transformers makes of a SentencePiece model."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model_file.read_bytes())
    pieces = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    if proto.trainer_spec.model_type == 1:
        tokenizer = Tokenizer(models.Unigram(
            [(p.piece, p.score) for p in proto.pieces], proto.trainer_spec.unk_id, False))
        tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        tokenizer.decoder = decoders.Metaspace()
    else:
        merges = []
        for piece in proto.pieces:
            local = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
            local = [m for m in local if m[0] in pieces and m[1] in pieces]
            merges += [(piece.score, m) for m in sorted(local, key=lambda m: (pieces[m[0]], pieces[m[1]]))]
        merges.sort(key=lambda m: -m[0])
        tokenizer = Tokenizer(models.BPE(
            pieces, [m[1] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if settings.get("gemma"):
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
            tokenizer.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                prepend_scheme="first", split=False)
            tokenizer.decoder = decoders.Sequence([
                decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                decoders.Strip(" ", 1, 0)])
    control = [p.piece for p in proto.pieces if p.type in (2, 3)]
    tokenizer.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in control])
    user = [p.piece for p in proto.pieces if p.type == 4]
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in user])
    return tokenizer


def trained_sentencepiece(corpus, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.split("\n")), model_writer=model, minloglevel=2,
        num_threads=1, hard_vocab_limit=False, **options)
    return model.getvalue()


def edited(model, change):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    change(proto)
    return proto.SerializeToString()


def mark_unused(proto):
    rng = random.Random(3)
    for piece in proto.pieces:
        if piece.type == 1 and len(piece.piece) > 1 and rng.random() < 0.3:
            piece.type = 5


def sentencepiece_models(corpus):
    """Yields (name, contents of a model file)."""
    few = corpus[:120000]
    user = ["<tool>", "word", "\n\n", "aaaa", "▁the▁", "é"]
    for kind in ("unigram", "bpe"):
        plain = trained_sentencepiece(few, model_type=kind, vocab_size=1500)
        yield f"{kind}, nmt_nfkc", plain
        yield f"{kind}, some pieces unused", edited(plain, mark_unused)
        yield f"{kind}, byte fallback, identity, whitespace kept", trained_sentencepiece(
            few, model_type=kind, vocab_size=1500, byte_fallback=True, split_digits=True,
            normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            user_defined_symbols=user, control_symbols=["<ctrl>"])
        yield f"{kind}, user-defined pieces, nfkc_cf", trained_sentencepiece(
            few, model_type=kind, vocab_size=1200, normalization_rule_name="nmt_nfkc_cf",
            user_defined_symbols=user)
        yield f"{kind}, whitespace as suffix", trained_sentencepiece(
            few, model_type=kind, vocab_size=1200, treat_whitespace_as_suffix=True)
        yield f"{kind}, across words, whitespace kept", trained_sentencepiece(
            few, model_type=kind, vocab_size=1200, split_by_whitespace=False,
            remove_extra_whitespaces=False, byte_fallback=True)
        # Characters that pieces are made of, but that are no pieces themselves.
        yield f"{kind}, characters missing", edited(plain, lambda proto: [
            setattr(p, "type", 3) for p in proto.pieces if p.piece in ("e", "o", "T")])
