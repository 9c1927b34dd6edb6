"""Transfers: pull, push and copy walk a graph of descriptors."""

from distsdk.transfer.events import Advanced as Advanced
from distsdk.transfer.events import Event as Event
from distsdk.transfer.events import Finished as Finished
from distsdk.transfer.events import Plan as Plan
from distsdk.transfer.events import Planned as Planned
from distsdk.transfer.events import Step as Step
from distsdk.transfer.pulling import complete as complete
from distsdk.transfer.pulling import name_in_store as name_in_store
from distsdk.transfer.pulling import pull as pull
