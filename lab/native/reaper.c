/* pid 1 of a lab host: reaps what the daemons leave behind, and does nothing else.
 * SIGKILL from outside the PID namespace ends it, and with it every process of the host:
 * that is what makes power loss and tear-down a single call. */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    for (;;) {
        int got;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        sigwait(&child, &got);
    }
}
