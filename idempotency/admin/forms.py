"""What an operator says about an outcome that is not known."""

from http import HTTPStatus
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from idempotency.documents import decode, encode
from idempotency.settlement import BODILESS

HAPPENED = "happened"
NEVER_HAPPENED = "never_happened"


class SettleForm(forms.Form):
    """It happened, and this is the reply; or it never happened."""

    outcome = forms.ChoiceField(
        label=_("What came of it"),
        choices=[
            (HAPPENED, _("It happened: retries get the reply below")),
            (NEVER_HAPPENED, _("It never happened: the next retry runs it")),
        ],
        widget=forms.RadioSelect,
    )
    status = forms.IntegerField(
        label=_("Status"),
        min_value=200,
        max_value=499,
        required=False,
        help_text=_("Of the reply, if it happened: 201 for instance."),
    )
    body = forms.CharField(
        label=_("Body"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false"}),
        help_text=_(
            "JSON, as the client would have got it; of a job, its result. Empty with status 204,"
            " 205 or 304."
        ),
    )

    def clean(self) -> dict[str, Any]:
        """`body` becomes the value that its JSON stands for."""
        data = super().clean() or {}
        if data.get("outcome") != HAPPENED:
            return data
        status, text = data.get("status"), data.get("body") or ""
        if status is None:
            if "status" not in self.errors:
                self.add_error("status", _("A reply needs a status."))
        elif status == HTTPStatus.ACCEPTED:
            self.add_error("status", _("202 says that it is still under way."))
        elif status in BODILESS:
            if text:
                self.add_error("body", _("A reply with this status has no body."))
            data["body"] = None
            return data
        try:
            data["body"] = decode(text)
            encode(data["body"], "The body")
        except RecursionError:
            self.add_error("body", _("This is too deeply nested."))
        except (TypeError, ValueError) as error:
            self.add_error("body", _("This is no JSON that can be kept: %(why)s") % {"why": error})
        return data
