"""Small WSGI applications that the tests serve with real servers, in processes of their own."""
