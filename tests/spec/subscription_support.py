"""Registrations to ask for, and the subscriptions of a connection in the states that tests begin with."""

from daemon.ingest.subscription_states import (
    Habits,
    Send,
    State,
)
from daemon.ingest.subscriptions import Subscriptions
from daemon.ingest.venues.venue import Refusal, Registration, RegistrationRefused

A, B, C = (Registration("TRADES", symbol) for symbol in "ABC")


def subscriptions(*registrations: Registration, interval_s: float = 0.1) -> Subscriptions:
    return Subscriptions(registrations, interval_s=interval_s, timeout_s=5.0, attempts=3)


def ready(*registrations: Registration, interval_s: float = 0.1) -> Subscriptions:
    subject = subscriptions(*registrations, interval_s=interval_s)
    subject.on_ready(0.0)
    return subject


def refused(registration: Registration | None, refusal: Refusal, code: str = "X1") -> RegistrationRefused:
    return RegistrationRefused(registration, refusal, code, "no")


def state(subject: Subscriptions, registration: Registration) -> State:
    return subject.status(registration).state


def confirmed(*registrations: Registration, habits: Habits | None = None) -> Subscriptions:
    subject = Subscriptions(registrations, interval_s=0.1, timeout_s=5.0, attempts=3, habits=habits or Habits())
    subject.on_ready(0.0)
    now = 0.0
    while subject.statistics().confirmed < len(registrations):
        for action in subject.due(now):
            assert isinstance(action, Send)
            if subject._habits.is_serial:
                subject.on_confirmed(None)
            else:
                for registration in action.registrations:
                    subject.on_confirmed(registration)
        now += 0.1
    return subject


BATCH = Habits(max_batch=4)
D, E, F, G = (Registration("TRADES", symbol) for symbol in "DEFG")


def batches(*registrations: Registration, habits: Habits = BATCH) -> Subscriptions:
    subject = Subscriptions(registrations, interval_s=0.1, timeout_s=5.0, attempts=3, habits=habits)
    subject.on_ready(0.0)
    return subject


STATES_ALL = Habits(acknowledges=False, replaces_all=True, max_batch=1000)
