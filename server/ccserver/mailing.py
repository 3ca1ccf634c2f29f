"""Mail: one message handed to the configured mail server; nothing is kept open between two."""

import asyncio
from email.message import EmailMessage

import aiosmtplib

from ccserver.config import Smtp
from ccserver.errors import ReceiverFailedError

_SECONDS = 20.0


async def send(smtp: Smtp, message: EmailMessage) -> None:
    """Hand a message over; ReceiverFailedError when it was not taken for every recipient."""
    try:
        async with asyncio.timeout(_SECONDS):
            refused, _said = await aiosmtplib.send(
                message,
                sender=smtp.sender,
                hostname=smtp.host,
                port=smtp.port,
                username=smtp.user,
                password=smtp.password,
                use_tls=smtp.tls == "tls",
                start_tls=smtp.tls == "starttls",
                timeout=_SECONDS,
            )
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = ", ".join(sorted({str(each.code) for each in error.recipients}))
        raise ReceiverFailedError(f"The mail server refused every recipient ({codes}).") from error
    except aiosmtplib.SMTPResponseException as error:  # its text may repeat addresses
        raise ReceiverFailedError(f"The mail server refused the message ({error.code}).") from error
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        raise ReceiverFailedError(f"The mail server did not take the message ({type(error).__name__}).") from error
    if refused:
        raise ReceiverFailedError(f"The mail server refused {len(refused)} of the recipients.")
