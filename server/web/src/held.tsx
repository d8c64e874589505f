// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState } from 'preact/hooks'
import type { Body } from '../../api/schemas/contract.ts'
import { call } from './api.ts'
import { hex, parseAddress, seconds, wide } from './format.ts'
import { useLoaded } from './hooks.ts'
import { isPending } from './queuePairs.ts'
import { shortcut } from './shortcuts.ts'
import { held, info, reachable } from './store.ts'
import { attempt, Button, Scroll, Tag } from './ui.tsx'

/** Commands that the banner names. */
const NAMED = 24

/** The commands that a held write of CMDQ_PROD hands over. */
function Commands({ of: smmu }: { of: number }) {
  const loaded = useLoaded(() => call('GET /smmus/:smmu/queues', { params: { smmu } }), 0, [smmu])
  const host = loaded.data?.host
  if (host === undefined) return null
  const pending = host.shown.filter(({ index }) => isPending(host, index))
  return (
    <Scroll label="Commands about to be decided" class="held-commands">
      {pending.length === 0 && <span class="muted">no new command</span>}
      {pending.slice(0, NAMED).map(({ index, text }) => (
        <Tag key={index} tone="host">
          {text}
        </Tag>
      ))}
      {host.pending > NAMED && <span class="muted">and {host.pending - NAMED} more</span>}
    </Scroll>
  )
}

/** The trap that waits, over every view. */
export function HeldBar() {
  const stop = held.value
  const [value, setValue] = useState('')
  const key = stop ? `${stop.trap.seq}-${stop.hit.phase}` : ''
  useEffect(() => setValue(''), [key])
  const release = (action: Body<'POST /held/release'>['action']) => {
    if (held.peek() === null || !reachable.peek()) return
    const changed = action === 'continue' || action === 'step' ? parseAddress(value) : undefined
    const body = { action, value: changed === undefined ? undefined : hex(changed) }
    void attempt(() => call('POST /held/release', { body }))
  }
  useEffect(() => {
    const ends = [
      shortcut('F8', 'Continue the held trap', () => release('continue')),
      shortcut('F10', 'Step to the next trap', () => release('step')),
    ]
    return () => {
      for (const end of ends) end()
    }
  })
  if (stop === null) return null
  const { trap, hit, where } = stop
  const register = info.value?.registers.find(r => r.offset === trap.offset)?.name ?? hex(trap.offset)
  const before = hit.phase === 'before'
  const settled = !before && trap.write
  const known = trap.write || !before
  return (
    <div class="held-bar" role="alert">
      <div class="held-text">
        <Tag tone="warn">held</Tag>
        <b class="mono">
          {trap.write ? 'write' : 'read'} {register} {known && wide(trap.lo, trap.hi)}
        </b>
        <span class="muted">
          trap {trap.seq}, {seconds(trap.time)} s of guest time, CPU {trap.cpu},{' '}
          {hit.breakpoint === 0 ? 'stopped by hand' : `breakpoint ${hit.breakpoint}`}
          {hit.late && ', after an event between traps'}
          {where && `, in ${where}`}, {before ? 'not yet decided' : 'decided, not yet answered'}
        </span>
        {hit.command && <code>{hit.command.map(w => hex(w)).join(' ')}</code>}
        {before && trap.write && register === 'CMDQ_PROD' && <Commands key={key} of={trap.smmu} />}
      </div>
      <div class="buttons">
        <input
          aria-label="Changed value"
          class="value"
          placeholder={settled ? 'already written' : trap.write ? 'write this instead' : 'answer this instead'}
          disabled={settled}
          value={value}
          aria-invalid={value !== '' && parseAddress(value) === undefined}
          onInput={e => setValue(e.currentTarget.value)}
          spellcheck={false}
        />
        <Button tone="primary" keys="F8" onClick={() => release('continue')}>
          Continue
        </Button>
        <Button keys="F10" onClick={() => release('step')}>
          Step
        </Button>
        <Button disabled={settled} onClick={() => release('drop')}>
          Drop
        </Button>
        <Button tone="danger" onClick={() => release('abort')}>
          Abort
        </Button>
      </div>
    </div>
  )
}
