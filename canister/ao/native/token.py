"""A token like wAR: balances in whole units, transfers with notices. All of it in the transaction of a message."""

from __future__ import annotations

import json

from canister.ao.journal.money import Ledger
from canister.ao.native.answers import Answers, carried, whole
from canister.ao.processes.messages import Delivered, ProcessInfo, Result

DENOMINATION = 12
_ACCOUNT_CHARACTERS = 128


def handle(ledger: Ledger, info: ProcessInfo, delivered: Delivered, node: str) -> Result:
    answers = Answers(delivered)
    message, sender = delivered.message, delivered.sender
    ticker = info.tag("Ticker") or "wAR"
    match (message.tag("Action") or "").lower():
        case "info":
            name, logo = info.tag("Name") or "Wrapped AR", info.tag("Logo") or ""
            denomination = info.tag("Denomination") or DENOMINATION
            answers.reply("Info-Response", Name=name, Ticker=ticker, Denomination=denomination, Logo=logo)
        case "balance":
            account = message.tag("Recipient") or message.tag("Target") or sender
            amount = str(ledger.balance(account))
            answers.reply("Balance-Response", amount.encode(), Balance=amount, Ticker=ticker, Account=account)
        case "balances":
            shown = {account: str(amount) for account, amount in ledger.all().items()}
            answers.reply("Balances-Response", json.dumps(shown).encode(), Ticker=ticker)
        case "total-supply":
            answers.reply("Total-Supply-Response", str(ledger.supply()).encode(), Ticker=ticker)
        case "transfer":
            return _transferred(ledger, delivered, answers)
        case "mint":
            return _minted(ledger, info, delivered, node, answers)
        case "eval":
            return answers.result(error="a token runs no code; see Info, Balance, Transfer")
    return answers.result()


def _transferred(ledger: Ledger, delivered: Delivered, answers: Answers) -> Result:
    message, sender = delivered.message, delivered.sender
    recipient, quantity = message.tag("Recipient"), whole(message.tag("Quantity"))
    refusal = None
    if not recipient or len(recipient) > _ACCOUNT_CHARACTERS:
        refusal = "Recipient is required!"
    elif not quantity:
        refusal = "Quantity is required, and must be a whole number greater than zero!"
    elif ledger.balance(sender) < quantity:
        refusal = "Insufficient Balance!"
    if refusal or recipient is None or quantity is None:
        answers.reply("Transfer-Error", (refusal or "").encode(), Message_Id=message.id, Error=refusal)
        return answers.result()
    ledger.add(sender, -quantity)
    ledger.add(recipient, quantity)
    if message.tag("Cast") is None:
        x = carried(delivered)
        debit = {**({"X-Reference": reference} if (reference := message.tag("Reference")) else {}), **x}
        answers.send_with(
            sender,
            "Debit-Notice",
            f"You transferred {quantity} to {recipient}".encode(),
            debit,
            Recipient=recipient,
            Quantity=quantity,
        )
        credit = f"You received {quantity} from {sender}".encode()
        answers.send_with(recipient, "Credit-Notice", credit, x, Sender=sender, Quantity=quantity)
    return answers.result()


def _minted(ledger: Ledger, info: ProcessInfo, delivered: Delivered, node: str, answers: Answers) -> Result:
    message, sender = delivered.message, delivered.sender
    quantity = whole(message.tag("Quantity"))
    recipient = message.tag("Recipient") or sender
    refusal = None
    if sender not in (info.owner, node) or message.owner not in (info.owner, node):
        refusal = "Only the owner of the token can mint!"
    elif not quantity or len(recipient) > _ACCOUNT_CHARACTERS:
        refusal = "Quantity must be a whole number greater than zero!"
    if refusal is not None or quantity is None:
        answers.reply("Mint-Error", b"", Message_Id=message.id, Error=refusal)
    else:
        ledger.add(recipient, quantity)
        answers.reply("Mint-Response", b"", Recipient=recipient, Quantity=quantity)
    return answers.result()
