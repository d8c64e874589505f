// SPDX-License-Identifier: Apache-2.0
/** What was recorded before: decided again, compared; campaigns of fault sessions. */
import { useState } from 'preact/hooks'
import type { RecordingView, ReportView } from '../../../api/schemas/recordings.ts'
import { PREFIX } from '../../../api/schemas/request.ts'
import { type ApiError, call, fetchFile } from '../api.ts'
import { bytes, count } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { Opened, OpenFile } from '../recorded/compare.tsx'
import { alone, open, recording } from '../recorded/open.ts'
import { status } from '../store.ts'
import { attempt, Button, Empty, Failure, Load, Panel, Scroll, Skeleton, Tag } from '../ui.tsx'

type Report = ReportView & { readonly title: string }

export function Runs() {
  return recording.value === undefined && !alone ? <Kept /> : <Opened />
}

function Kept() {
  const recordings = useLoaded(() => call('GET /recordings'), 0, [status.value?.state])
  const campaigns = useLoaded(() => call('GET /campaigns'), 0, [])
  const [base, setBase] = useState<string | undefined>()
  const [report, setReport] = useState<Report | undefined>()
  const [error, setError] = useState<ApiError | undefined>()
  const [busy, setBusy] = useState(false)
  const read = async (title: string, ask: () => Promise<ReportView>) => {
    setBusy(true)
    setReport(undefined)
    setError(undefined)
    try {
      setReport({ title, ...(await ask()) })
    } catch (e) {
      setError(e as ApiError)
    }
    setBusy(false)
  }
  const replay = (name: string) =>
    void read(`Replay of ${name}`, () => call('POST /recordings/:name/replay', { params: { name } }))
  const compare = (name: string, other: string) =>
    void read(`${name} and ${other}`, () => call('POST /recordings/:name/compare/:other', { params: { name, other } }))
  return (
    <div class="view split runs-view">
      <div class="stack">
        <Panel title="Recordings" flush class="grow" side={<OpenFile />}>
          <Load from={recordings}>
            {({ items }) =>
              items.length === 0 ? (
                <Empty title="No recording is kept">Each machine that is started here records what it does.</Empty>
              ) : (
                <Scroll label="Recordings">
                  <table class="data">
                    <thead>
                      <tr>
                        <th>Run</th>
                        <th>Policy</th>
                        <th>Kernel</th>
                        <th class="num">Size</th>
                        <th>Read</th>
                      </tr>
                    </thead>
                    <tbody>
                      {items.map(item => (
                        <Recording
                          key={item.name}
                          of={item}
                          base={base}
                          busy={busy}
                          replay={replay}
                          compare={compare}
                          mark={setBase}
                        />
                      ))}
                    </tbody>
                  </table>
                </Scroll>
              )
            }
          </Load>
        </Panel>
        <Panel title="Campaigns of faults" flush>
          <Load from={campaigns}>
            {({ items }) =>
              items.length === 0 ? (
                <Empty title="No campaign is kept">smmu-cosim faults campaign runs some.</Empty>
              ) : (
                <Scroll label="Campaigns">
                  <table class="data">
                    <thead>
                      <tr>
                        <th class="num">#</th>
                        <th>Started</th>
                        <th>What</th>
                        <th class="num">Done</th>
                        <th class="num">As expected</th>
                      </tr>
                    </thead>
                    <tbody>
                      {items.map(({ id, started, what, planned, done, asExpected }) => (
                        <tr key={id}>
                          <td class="num">{id}</td>
                          <td>{when(started)}</td>
                          <td>{what}</td>
                          <td class="num">
                            {count(done)} of {count(planned)}
                          </td>
                          <td class={`num ${asExpected < done ? 'bad-text' : ''}`}>{count(asExpected)}</td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </Scroll>
              )
            }
          </Load>
        </Panel>
      </div>
      <Panel
        title={report?.title ?? 'Report'}
        flush
        class="grow"
        side={report && <Tag tone={report.same ? 'ok' : 'warn'}>{report.same ? 'no difference' : 'different'}</Tag>}
      >
        {error !== undefined ? (
          <Failure error={error} />
        ) : busy ? (
          <Skeleton />
        ) : report === undefined ? (
          <Empty title="Nothing was read yet">
            Replay lets the hypervisor decide again what was recorded; to compare, choose the first of two.
          </Empty>
        ) : (
          <Scroll label="Report" class="pad">
            <pre class="steps">{report.lines.join('\n')}</pre>
          </Scroll>
        )}
      </Panel>
    </div>
  )
}

/** Read in this page. */
async function opened(name: string): Promise<void> {
  await open(name, await fetchFile(`${PREFIX}/recordings/${encodeURIComponent(name)}/file`))
}

const when = (iso: string): string => iso.slice(0, 19).replace('T', ' ')

function Recording(props: {
  of: RecordingView
  /** The first of two that are compared. */
  base: string | undefined
  busy: boolean
  replay: (name: string) => void
  compare: (name: string, other: string) => void
  mark: (name: string | undefined) => void
}) {
  const { of, base, busy } = props
  const { name, created, policy, kernel } = of
  return (
    <tr class={base === name ? 'hit' : ''}>
      <td title={name}>{when(created)}</td>
      <td class="policy">{policy}</td>
      <td>{kernel}</td>
      <td class="num">{bytes(of.bytes)}</td>
      <td>
        <div class="buttons">
          <Button class="small" aria-label={`Open ${name}`} onClick={() => void attempt(() => opened(name))}>
            Open
          </Button>
          <Button class="small" disabled={busy} aria-label={`Replay ${name}`} onClick={() => props.replay(name)}>
            Replay
          </Button>
          {base === undefined || base === name ? (
            <Button
              class="small"
              aria-label={`Compare ${name} with another`}
              aria-pressed={base === name}
              onClick={() => props.mark(base === name ? undefined : name)}
            >
              Compare
            </Button>
          ) : (
            <Button
              class="small"
              disabled={busy}
              aria-label={`Compare with ${name}`}
              onClick={() => {
                props.compare(base, name)
                props.mark(undefined)
              }}
            >
              with this
            </Button>
          )}
        </div>
      </td>
    </tr>
  )
}
