"""What processes tell each other in every exchange: it is compared, judged and written down."""

from localsgd.conversation.conversation import Conversation
from localsgd.conversation.inspector import Inspector, NonFinitePolicy
from localsgd.conversation.ledger import Ledger

__all__ = ["Conversation", "Inspector", "Ledger", "NonFinitePolicy"]
