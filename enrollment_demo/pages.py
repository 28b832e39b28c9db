"""How lists are cut."""

from rest_framework.pagination import PageNumberPagination


class Pages(PageNumberPagination):
    """Lists with a count, so that an outsider can ask for `?page_size=1` and still know."""

    page_size = 100
    page_size_query_param = "page_size"
    max_page_size = 1000
