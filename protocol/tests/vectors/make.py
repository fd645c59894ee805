"""Writes vectors.json with libsodium (through PyNaCl), which shares no code with the Rust crate.

Everything derives from fixed seeds, so a second run changes nothing.
"""

import base64
import hashlib
import json
import pathlib

from nacl import bindings
from nacl.exceptions import BadSignatureError

# The order of the base point (RFC 8032 §5.1).
L = 2**252 + 27742317777372353535851937790883648493
NOW_MS = 1_760_000_000_000


def keypair(name):
    seed = hashlib.sha256(f"vector:{name}".encode()).digest()
    public, secret = bindings.crypto_sign_seed_keypair(seed)
    return {"name": name, "seed": seed.hex(), "public": public.hex(), "secret": secret.hex()}


def sign(key, text):
    signed = bindings.crypto_sign(text.encode(), bytes.fromhex(key["secret"]))
    return signed[: bindings.crypto_sign_BYTES].hex()


def accepts(pubkey, signature, text):
    """libsodium's own verdict, which the Rust crate must share."""
    signed = bytes.fromhex(signature) + text.encode()
    try:
        bindings.crypto_sign_open(signed, bytes.fromhex(pubkey))
    except BadSignatureError:
        return False
    return True


def signed(purpose, key, fields, canonical):
    return {
        "purpose": purpose,
        "signer": key["name"],
        "fields": fields,
        "canonical": canonical,
        "signature": sign(key, canonical),
    }


def invite(owner, slug, broker_url, role, expires_at):
    root = hashlib.sha256(f"root:{slug}".encode()).digest()
    body = {
        "v": 1,
        "mesh_id": "0Ab9" * 8,
        "mesh_slug": slug,
        "broker_url": broker_url,
        "expires_at": expires_at,
        "mesh_root_key": base64.urlsafe_b64encode(root).decode().rstrip("="),
        "role": role,
        "owner_pubkey": owner["public"],
    }
    canonical = "|".join(str(value) for value in body.values())
    body["signature"] = sign(owner, canonical)
    # What a browser's JSON.stringify writes: no spaces, letters beyond ASCII as they are.
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    token = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return {"signer": owner["name"], "invite": body, "canonical": canonical, "token": token}


def flip(text_hex, bit):
    raw = bytearray.fromhex(text_hex)
    raw[bit // 8] ^= 1 << bit % 8
    return raw.hex()


def malleable(signature):
    """The same signature with the group order added to its scalar: 2^252 < S + L < 2^253."""
    raw = bytes.fromhex(signature)
    scalar = int.from_bytes(raw[32:], "little") + L
    return (raw[:32] + scalar.to_bytes(32, "little")).hex()


def small_order():
    """With the neutral element for a key, S·B = R + k·A holds for any text when R = S·B."""
    scalar = (5).to_bytes(32, "little")
    point = bindings.crypto_scalarmult_ed25519_base_noclamp(scalar)
    return (b"\x01" + bytes(31)).hex(), (point + scalar).hex()


def verdicts(member, other):
    text = f"mesh|member|{member['public']}|{NOW_MS}"
    good = sign(member, text)
    weak_key, weak_signature = small_order()
    wellformed = [
        ("as signed", member["public"], good, text),
        ("upper-case signature", member["public"], good.upper(), text),
        ("upper-case key", member["public"].upper(), good, text),
        ("another key", other["public"], good, text),
        ("another text", member["public"], good, text + " "),
        ("a bit of R flipped", member["public"], flip(good, 3), text),
        ("a bit of S flipped", member["public"], flip(good, 32 * 8), text),
        ("the highest bit of S flipped", member["public"], flip(good, 511), text),
        ("a bit of the key flipped", flip(member["public"], 8), good, text),
        ("S plus the group order", member["public"], malleable(good), text),
        ("a key of small order", weak_key, weak_signature, text),
        ("zeros", "00" * 32, "00" * 64, text),
        ("the neutral element and zero", weak_key, weak_key + "00" * 32, text),
    ]
    malformed = [
        ("short signature", member["public"], good[:-2], text),
        ("long signature", member["public"], good + "00", text),
        ("odd signature", member["public"], good[:-1], text),
        ("empty signature", member["public"], "", text),
        ("short key", member["public"][:-2], good, text),
        ("long key", member["public"] + "00", good, text),
        ("empty key", "", good, text),
        ("signature that is no hex", member["public"], "g" + good[1:], text),
        ("key that is no hex", member["public"][:-1] + "z", good, text),
        ("signature with a blank", member["public"], " " + good[1:], text),
        ("prefixed key", "0x" + member["public"][2:], good, text),
        ("letters beyond ASCII, as many bytes", "é" * 32, good, text),
    ]
    rows = [
        (why, key, sig, message, "good" if accepts(key, sig, message) else "bad")
        for why, key, sig, message in wellformed
    ] + [(*row, "malformed") for row in malformed]
    names = ("why", "pubkey", "signature", "message", "verdict")
    return [dict(zip(names, row)) for row in rows]


def main():
    member, session, owner = keypair("member"), keypair("session"), keypair("owner")
    mesh, row = "0123456789ABCDEFGHIJKLMNOPQRSTUV", "abcdefghijklmnopqrstuvwxyz012345"
    vectors = {
        "keys": [member, session, owner],
        "signed": [],
        "invites": [
            invite(owner, "red", "wss://broker.example/ws", "member", 1_760_604_800),
            invite(owner, "größe-日本-??>>", "ws://127.0.0.1:7900/ws", "admin", 0),
        ],
        "verdicts": verdicts(member, session),
    }
    for mesh_id, member_id, at in [(mesh, row, NOW_MS), ("größe|x", "", 0), ("m", "n", -1)]:
        fields = {"mesh": mesh_id, "member": member_id, "timestamp": at}
        text = f"{mesh_id}|{member_id}|{member['public']}|{at}"
        vectors["signed"].append(signed("hello", member, fields, text))
    for at in (NOW_MS + 43_200_000, 1):
        text = f"claudemesh-session-attest|{member['public']}|{session['public']}|{at}"
        vectors["signed"].append(signed("attestation", member, {"timestamp": at}, text))
    for at in (NOW_MS, 1):
        fields = {"mesh": mesh, "timestamp": at}
        text = f"claudemesh-session-hello|{mesh}|{member['public']}|{session['public']}|{at}"
        vectors["signed"].append(signed("session_hello", session, fields, text))
    target = pathlib.Path(__file__).with_name("vectors.json")
    target.write_text(json.dumps(vectors, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


main()
