"""The reviewer's pages: a verified run as plain HTML that can be sent to somebody."""
