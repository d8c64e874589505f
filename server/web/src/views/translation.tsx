// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState } from 'preact/hooks'
import type { WalkView } from '../../../api/schemas/smmus.ts'
import { type ApiError, call } from '../api.ts'
import { bytes, hex, parseAddress } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { recording, shown } from '../recorded/open.ts'
import { inspectable, route, smmu, status } from '../store.ts'
import { Button, Choice, Empty, Failure, Field, Load, Panel, Scroll, Skeleton, Tag, type Tone } from '../ui.tsx'
import { NoMachine } from './none.tsx'

export function Translation() {
  const { query } = route.value
  const devices = (status.value?.machine?.devices ?? []).filter(d => d.smmu === smmu.value)
  const [sid, setSid] = useState(query.get('sid') ?? (devices[0] ? hex(devices[0].sid) : ''))
  const [iova, setIova] = useState(query.get('iova') ?? '')
  const [access, setAccess] = useState<'read' | 'write'>('read')
  const [table, setTable] = useState<'hardware' | 'host'>('hardware')
  const [walk, setWalk] = useState<WalkView | undefined>()
  const [error, setError] = useState<ApiError | undefined>()
  /** StreamID, address and access of the walk that is shown. */
  const [walked, setWalked] = useState('')
  const [busy, setBusy] = useState(false)
  const chosen = sid === '' ? devices[0]?.sid : parseAddress(sid) === undefined ? undefined : Number(parseAddress(sid))
  const address = parseAddress(iova)

  const run = async (at = address) => {
    if (chosen === undefined || at === undefined) return
    setBusy(true)
    try {
      setWalk(
        await call('GET /smmus/:smmu/walk', {
          params: { smmu: smmu.value },
          query: { sid: chosen, iova: hex(at), access, table },
        }),
      )
      setError(undefined)
      setWalked(`${hex(chosen)}, ${hex(at)}, ${access}`)
    } catch (e) {
      // What was walked before says nothing about this address.
      setWalk(undefined)
      setError(e as ApiError)
    }
    setBusy(false)
  }
  useEffect(() => {
    if (inspectable.value && address !== undefined) void run()
  }, [access, table, chosen, inspectable.value, shown.value])
  const linked = query.toString()
  useEffect(() => {
    const given = new URLSearchParams(linked)
    const at = given.get('iova')
    if (given.get('sid') !== null) setSid(given.get('sid') ?? '')
    if (at !== null) setIova(at)
  }, [linked])

  if (!inspectable.value) return <NoMachine what="Translations" />
  return (
    <div class="view split translation-view">
      <div class="stack">
        <Panel title="Translate">
          <form
            class="form"
            onSubmit={e => {
              e.preventDefault()
              void run()
            }}
          >
            <Field label="StreamID">
              <input
                list="sids"
                value={sid}
                placeholder={devices[0] ? hex(devices[0].sid) : '0x8'}
                onInput={e => setSid(e.currentTarget.value)}
                spellcheck={false}
              />
              <datalist id="sids">
                {devices.map(d => (
                  <option key={d.sid} value={hex(d.sid)}>
                    {d.name}
                  </option>
                ))}
              </datalist>
            </Field>
            <Field label="Input address (IOVA)">
              <input
                value={iova}
                placeholder="0xfffff000"
                onInput={e => setIova(e.currentTarget.value)}
                aria-invalid={iova !== '' && address === undefined}
                spellcheck={false}
              />
            </Field>
            <Choice
              label="Access"
              value={access}
              options={[
                ['read', 'Read'],
                ['write', 'Write'],
              ]}
              change={setAccess}
            />
            <Choice
              label="Stream table"
              value={table}
              options={[
                ['hardware', 'As the hardware'],
                ['host', 'As the host wrote it'],
              ]}
              change={setTable}
            />
            <Button tone="primary" type="submit" disabled={address === undefined || chosen === undefined}>
              Walk
            </Button>
          </form>
          <p class="hint">
            {recording.value === undefined
              ? 'Reads the tables as they stand in memory now. What the SMMU has cached may differ.'
              : 'Reads what the recording shows of the tables at this moment; nothing is taken for 0.'}
          </p>
        </Panel>
        {chosen !== undefined && (
          <Mapped
            sid={chosen}
            pick={at => {
              setIova(at)
              void run(parseAddress(at))
            }}
          />
        )}
      </div>
      <Panel title="Walk" flush class="grow" side={walk !== undefined && <span class="mono muted">{walked}</span>}>
        {error !== undefined ? (
          <Failure error={error} />
        ) : walk === undefined ? (
          busy ? (
            <Skeleton />
          ) : (
            <Empty title="No walk yet">Enter a StreamID and an address, or choose one that is mapped.</Empty>
          )
        ) : (
          <Scroll label="Steps of the walk" class="pad">
            <Result walk={walk} />
            <ol class="walk">
              {walk.steps.map((step, i) => (
                <Step key={i} step={step} />
              ))}
            </ol>
          </Scroll>
        )}
      </Panel>
    </div>
  )
}

function Result({ walk }: { walk: WalkView }) {
  const tone: Tone = walk.outcome === 'translated' ? 'ok' : walk.outcome === 'unknown' ? 'warn' : 'bad'
  return (
    <div class={`result ${tone}`} role="status">
      <Tag tone={tone}>{walk.outcome}</Tag>
      <b class="mono">{walk.pa ?? walk.text}</b>
      {walk.permissions && <span class="mono">{walk.permissions}</span>}
      {walk.size !== null && !walk.bypass && <span class="muted">mapped linearly for {bytes(walk.size)}</span>}
      {walk.bypass && <span class="muted">no stage translates</span>}
      {walk.recorded !== null && (
        <span class="muted">{walk.recorded ? 'recorded in the event queue' : 'not recorded'}</span>
      )}
    </div>
  )
}

type WalkStep = WalkView['steps'][number]

const WHAT: Readonly<Record<WalkStep['what'], readonly [name: string, tone: Tone]>> = {
  L1STD: ['Stream table, level 1', 'plain'],
  STE: ['Stream table entry', 'plain'],
  L1CD: ['Context descriptors, level 1', 'plain'],
  CD: ['Context descriptor', 'plain'],
  S1: ['Stage 1', 'host'],
  S2: ['Stage 2', 'hyp'],
}

function Step({ step }: { step: WalkStep }) {
  const [name, tone] = WHAT[step.what]
  const inner = step.what === 'S2' && step.purpose !== 'address'
  return (
    <li class={`step ${tone} ${inner ? 'inner' : ''}`}>
      <div>
        <b>
          {name}
          {step.level !== null && ` L${step.level}`}
        </b>
        {step.purpose && <span class="muted"> for the {step.purpose}</span>}
        <span class="at mono">
          {step.ipa && step.ipa !== step.address ? `IPA ${step.ipa} → ` : ''}
          {step.address}
        </span>
      </div>
      <div class="mono">{step.text || 'the fetch was aborted'}</div>
      <div class="mono muted words">{step.words.slice(0, 4).join(' ')}</div>
    </li>
  )
}

function Mapped({ sid, pick }: { sid: number; pick: (iova: string) => void }) {
  const loaded = useLoaded(() => call('GET /memory/reach', { query: { smmu: smmu.value } }), 4_000, [smmu.value])
  return (
    <Panel title={`Mapped by stage 1 of ${hex(sid)}`} flush class="grow">
      <Load from={loaded}>
        {streams => {
          const { mapped = [], unread = 0 } = streams.find(s => s.sid === sid) ?? {}
          return mapped.length === 0 ? (
            unread > 0 ? (
              <Empty title="Not known">
                {recording.value === undefined
                  ? 'Its tables cannot be read: they are not in RAM.'
                  : 'The host’s own tables are not in the recording: only the SMMU reads them, unless the server translates.'}
              </Empty>
            ) : (
              <Empty title="Nothing is mapped now">Drivers map buffers for the time of a transfer.</Empty>
            )
          ) : (
            <Scroll label="Mapped addresses">
              <table class="data">
                <thead>
                  <tr>
                    <th>IOVA</th>
                    <th>Output</th>
                    <th>Size</th>
                  </tr>
                </thead>
                <tbody>
                  {mapped.slice(0, 500).map(m => (
                    <tr key={m.iova} class="link" onClick={() => pick(m.iova)}>
                      <td class="mono">
                        <button type="button" class="as-link">
                          {m.iova}
                        </button>
                      </td>
                      <td class="mono">{m.base}</td>
                      <td>{bytes(m.size)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </Scroll>
          )
        }}
      </Load>
    </Panel>
  )
}
