"""Writes a tokenizer.json of the size and make of Gemma 3's, for measuring how fast it opens.

    python tokenizer_large_json.py OUT.json [PIECES]      262144 pieces: 20 MB; 400000: 31 MB
    python tokenizer_large_json.py OUT.model [PIECES]     the same as a SentencePiece model

With "unigram" in OUT it is a Unigram model instead, as XLM-R's. Pieces are random, made of one another,
so that every one has a merge.
"""

import json
import random
import sys


def sentencepiece_model(pieces, unigram):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 1 if unigram else 2
    model.trainer_spec.byte_fallback = not unigram
    kinds = {"<unk>": 2, "<pad>": 3, "<eos>": 3, "<bos>": 3}
    for i, text in enumerate(pieces):
        is_byte = text.startswith("<0x") and not unigram
        model.pieces.add(piece=text, score=-i / 20000 if unigram else -i,
                         type=6 if is_byte else kinds.get(text, 1))
    return model.SerializeToString()


def main():
    out, num_pieces = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 262144
    rng = random.Random(1)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    pieces = specials + [f"<0x{b:02X}>" for b in range(256)]
    letters = ["▁"] + [chr(c) for c in range(0x21, 0x7F)] + [chr(c) for c in range(0xC0, 0x250)]
    letters += [chr(c) for c in range(0x4E00, 0x4E00 + 2500)]
    symbols = letters[:95] * 12 + letters
    pieces += letters
    known = set(pieces)
    parts, merges = list(letters), []
    while len(pieces) < num_pieces:
        left, right = rng.choice(parts), rng.choice(parts[:4000])
        if rng.random() < 0.4:
            left = rng.choice(symbols)
        token = left + right
        if token in known or len(token) > 12 or "▁" in right:
            continue
        known.add(token)
        pieces.append(token)
        parts.append(token)
        merges.append((left, right))
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [c for c in cuts if c != (left, right) and c[0] in known and c[1] in known]
    if out.endswith(".model"):
        with open(out, "wb") as file:
            file.write(sentencepiece_model(pieces, "unigram" in out))
        return
    ids = {piece: i for i, piece in enumerate(pieces)}
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, s in enumerate(specials)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                          "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": ids, "merges": merges},
    }
    if "unigram" in out:
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        document |= {"normalizer": {"type": "NFKC"}, "pre_tokenizer": metaspace, "decoder": metaspace}
        document["model"] = {"type": "Unigram", "unk_id": 3, "byte_fallback": False,
                             "vocab": [[piece, -i / 20000] for piece, i in ids.items()]}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, indent=2)


if __name__ == "__main__":
    main()
