// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState } from 'preact/hooks'
import type { BreakpointBody } from '../../../api/schemas/breakpoints.ts'
import { call } from '../api.ts'
import { count, counted } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { MachineControls } from '../machine.tsx'
import { held, info, reachable, running, status } from '../store.ts'
import { attempt, Button, Empty, Field, Load, Panel, Scroll, Tag, type Tone } from '../ui.tsx'

type On = BreakpointBody['on']

const KINDS: readonly (readonly [On, string, Tone])[] = [
  ['register', 'Register access', 'host'],
  ['command', 'Command', 'host'],
  ['stream', 'StreamID', 'hyp'],
  ['address', 'Address', 'hyp'],
  ['warning', 'Hyp warning', 'warn'],
  ['event', 'Event', 'bad'],
  ['function', 'Kernel function', 'host'],
]

/** What is typed in, and an example. */
const TYPED: Readonly<Partial<Record<On, readonly [label: string, example: string]>>> = {
  stream: ['StreamID', '0x8'],
  address: ['Start of the range', '0xffff0000'],
  function: ['Makes the trap, or calls who does', 'arm_smmu_attach_dev'],
}

/** What people set most. */
const QUICK: readonly (readonly [string, BreakpointBody])[] = [
  ['CFGI_STE', { on: 'command', command: 'CFGI_STE' }],
  ['write of CR0', { on: 'register', register: 'CR0', access: 'write' }],
  ['any unexpected warning', { on: 'warning' }],
  ['any event', { on: 'event' }],
]

export function Breakpoints() {
  const stop = held.value?.hit.breakpoint
  const loaded = useLoaded(() => call('GET /breakpoints'), 2_000, [held.value, status.value?.run])
  const add = async (body: BreakpointBody) => {
    await attempt(() => call('POST /breakpoints', { body }))
    loaded.reload()
  }
  return (
    <div class="view split breakpoints-view">
      <Panel title="Breakpoints" flush class="grow">
        <Load from={loaded}>
          {list =>
            list.length === 0 ? (
              <Empty title="No breakpoint is set">
                A hit holds the trap, and with it the vCPU, until you let it go on. Breakpoints stay for the next
                machine.
              </Empty>
            ) : (
              <Scroll label="Breakpoints">
                <table class="data">
                  <thead>
                    <tr>
                      <th>On</th>
                      <th>Stops at</th>
                      <th class="num">Matches</th>
                      <th />
                    </tr>
                  </thead>
                  <tbody>
                    {list.map(b => (
                      <tr key={b.id} class={b.id === stop ? 'hit' : ''}>
                        <td>
                          <label class="check">
                            <input
                              type="checkbox"
                              checked={b.enabled}
                              disabled={!reachable.value}
                              aria-label={`Breakpoint ${b.id}: ${b.text}`}
                              onChange={e => {
                                const enabled = e.currentTarget.checked
                                void attempt(() =>
                                  call('PATCH /breakpoints/:id', { params: { id: b.id }, body: { enabled } }),
                                ).then(loaded.reload)
                              }}
                            />
                            <Tag tone={KINDS.find(([on]) => on === b.on)?.[2] ?? 'plain'}>{b.on}</Tag>
                          </label>
                        </td>
                        <td>
                          {b.text}
                          <span class="muted">
                            {b.skip > 0 && `, after ${counted(b.skip, 'match', 'matches')}`}
                            {b.once && ', once'}
                            {b.smmu !== null && `, SMMU ${b.smmu}`}
                          </span>
                        </td>
                        <td class="num">{count(b.matches)}</td>
                        <td class="num">
                          <Button
                            class="small"
                            aria-label={`Remove breakpoint ${b.id}`}
                            onClick={() =>
                              void attempt(() => call('DELETE /breakpoints/:id', { params: { id: b.id } })).then(
                                loaded.reload,
                              )
                            }
                          >
                            Remove
                          </Button>
                        </td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </Scroll>
            )
          }
        </Load>
      </Panel>
      <div class="stack">
        <Add add={add} />
        <Panel title="Machine">
          <div class="buttons wrap">
            <MachineControls />
          </div>
          <p class="hint">
            A machine that is paused stands still as a whole. A trap that is held stops its vCPU inside the access,
            while the clock of the guest goes on: what times out in the meantime is your business.
          </p>
        </Panel>
        <Panel title="Stop at the next trap">
          <Button
            keys="b"
            disabled={!running.value || held.value !== null}
            aria-pressed={status.value?.breaking === true}
            onClick={() => void attempt(() => call('POST /break', { body: { on: !status.value?.breaking } }))}
          >
            {status.value?.breaking ? 'Waiting for a trap…' : 'Hold the next trap'}
          </Button>
        </Panel>
      </div>
    </div>
  )
}

function Add({ add }: { add: (body: BreakpointBody) => Promise<void> }) {
  const [on, setOn] = useState<On>('command')
  const [name, setName] = useState('')
  const [access, setAccess] = useState<NonNullable<BreakpointBody['access']>>('any')
  const [value, setValue] = useState('')
  const [mask, setMask] = useState('')
  const [size, setSize] = useState('4096')
  const [skip, setSkip] = useState('0')
  const [once, setOnce] = useState(false)
  useEffect(() => setName(''), [on])
  const words = info.value
  const names: readonly string[] =
    on === 'register'
      ? (words?.registers.map(r => r.name) ?? [])
      : on === 'command'
        ? (words?.commands ?? [])
        : on === 'warning'
          ? (words?.warnings.map(w => w.code) ?? [])
          : on === 'event'
            ? (words?.events ?? [])
            : []
  const submit = () => {
    const common = { on, skip: Number(skip) || 0, once }
    const named = name === '' ? {} : { [on]: name }
    if (on === 'register') {
      return add({ ...common, ...named, access, ...(value && { value }), ...(mask && { mask }) })
    }
    if (on === 'stream') return add({ ...common, sid: Number(name) })
    if (on === 'address') return add({ ...common, base: name, size: Number(size) })
    return add({ ...common, ...named })
  }
  return (
    <Panel title="Set a breakpoint">
      <form
        class="form"
        onSubmit={e => {
          e.preventDefault()
          void submit()
        }}
      >
        <Field label="On">
          <select value={on} onChange={e => setOn(e.currentTarget.value as On)}>
            {KINDS.map(([id, text]) => (
              <option key={id} value={id}>
                {text}
              </option>
            ))}
          </select>
        </Field>
        {names.length > 0 ? (
          <Field label="Which">
            <select value={name} onChange={e => setName(e.currentTarget.value)} aria-label="Which">
              <option value="">{on === 'warning' ? 'any unexpected' : 'any'}</option>
              {names.map(n => (
                <option key={n}>{n}</option>
              ))}
            </select>
          </Field>
        ) : (
          <Field label={TYPED[on]?.[0] ?? 'Which'}>
            <input
              required
              value={name}
              placeholder={TYPED[on]?.[1] ?? ''}
              onInput={e => setName(e.currentTarget.value)}
              spellcheck={false}
            />
          </Field>
        )}
        {on === 'register' && (
          <>
            <Field label="Access">
              <select value={access} onChange={e => setAccess(e.currentTarget.value as typeof access)}>
                <option value="any">read or write</option>
                <option value="write">write</option>
                <option value="read">read</option>
              </select>
            </Field>
            <div class="pair">
              <Field label="Value">
                <input
                  value={value}
                  placeholder="any"
                  onInput={e => setValue(e.currentTarget.value)}
                  spellcheck={false}
                />
              </Field>
              <Field label="Mask">
                <input
                  value={mask}
                  placeholder="all bits"
                  onInput={e => setMask(e.currentTarget.value)}
                  spellcheck={false}
                />
              </Field>
            </div>
          </>
        )}
        {on === 'address' && (
          <Field label="Size, bytes">
            <input type="number" min="1" value={size} onInput={e => setSize(e.currentTarget.value)} />
          </Field>
        )}
        <div class="pair">
          <Field label="Pass over">
            <input type="number" min="0" value={skip} onInput={e => setSkip(e.currentTarget.value)} />
          </Field>
          <label class="check">
            <input type="checkbox" checked={once} onChange={e => setOnce(e.currentTarget.checked)} />
            once
          </label>
        </div>
        <Button tone="primary" type="submit">
          Set breakpoint
        </Button>
      </form>
      <div class="quick">
        {QUICK.map(([text, body]) => (
          <Button key={text} class="small" onClick={() => void add(body)}>
            {text}
          </Button>
        ))}
      </div>
    </Panel>
  )
}
