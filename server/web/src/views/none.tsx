// SPDX-License-Identifier: Apache-2.0
import { startDialog } from '../machine.tsx'
import { machineState } from '../store.ts'
import { Button, Empty } from '../ui.tsx'

/** In the place of a view that needs a machine. */
export function NoMachine({ what }: { what: string }) {
  const off = machineState.value === 'off'
  return (
    <div class="view center">
      <Empty
        title={
          off
            ? 'No machine is running'
            : machineState.value === undefined
              ? 'The server does not answer'
              : 'The machine is starting'
        }
      >
        {what} {off ? 'can be seen while one runs.' : 'appear when it has connected.'}
      </Empty>
      {off && (
        <Button
          tone="primary"
          onClick={() => {
            startDialog.value = true
          }}
        >
          Start a machine
        </Button>
      )}
    </div>
  )
}
