from __future__ import annotations

import pytest

# So that a failure in the suite shows both sides, as one in a test module does.
pytest.register_assert_rewrite("distsdk.testing.suite")
