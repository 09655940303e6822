"""What happens at every step: optimizers, the clock, and who watches."""

from localsgd.stepping.stepper import Stepper

__all__ = ["Stepper"]
